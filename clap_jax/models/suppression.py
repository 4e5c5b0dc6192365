"""Suppresses overlapping candidates for all localizers."""

import dataclasses

from clap_jax.ops import nms
from clap_jax.types import Detections


@dataclasses.dataclass(frozen=True)
class SuppressionConfig:
  """Options of soft-NMS over the candidates of a localizer.

  Attributes:
    num_kept: number of detections per video.
    num_candidates: number of best (segment, class) pairs that enter
      suppression.
    sigma: width of the Gaussian soft-NMS; 0 disables suppression.
    min_score: minimum score, before and after decay.
    class_wise: whether detections suppress only those of their class.
    vote_iou: minimum IoU of segment voting; 0 disables it.
  """

  num_kept: int = 100
  num_candidates: int = 1000
  sigma: float = 0.5
  min_score: float = 0.001
  class_wise: bool = True
  vote_iou: float = 0.0

  def __post_init__(self):
    if self.sigma < 0 or not 0 <= self.vote_iou <= 1:
      raise ValueError(
        "sigma must be >= 0 and vote_iou in [0, 1], got "
        f"{self.sigma} and {self.vote_iou}."
      )

  def suppress(self, candidates: Detections) -> Detections:
    """Returns the best `num_kept` candidates of a video, best first."""
    if not self.sigma:
      kept = nms.best_candidates(
        candidates, num_kept=self.num_kept, min_score=self.min_score
      )
    else:
      kept = nms.soft_nms(
        candidates,
        num_kept=self.num_kept,
        sigma=self.sigma,
        min_score=self.min_score,
        class_wise=self.class_wise,
      )
    if self.vote_iou:
      kept = nms.vote(
        kept,
        candidates,
        iou_threshold=self.vote_iou,
        class_wise=self.class_wise,
      )
    return kept

  def describe(self) -> str:
    """Describes the options in one line for an evaluation card."""
    if not self.sigma:
      return "none"
    rule = "class-wise" if self.class_wise else "across classes"
    vote = f", voting {self.vote_iou:g}" if self.vote_iou else ""
    return f"Gaussian soft-NMS, sigma {self.sigma:g}, {rule}{vote}"
