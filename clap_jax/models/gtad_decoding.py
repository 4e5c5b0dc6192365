"""Decodes the sub-graph localizer's outputs to detections."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from clap_jax.models.suppression import SuppressionConfig
from clap_jax.ops import nms
from clap_jax.ops import proposals as proposal_ops
from clap_jax.ops.proposals import ProposalPredictions
from clap_jax.types import Detections


@dataclasses.dataclass(frozen=True)
class GtadDecodeConfig(SuppressionConfig):
  """Options that turn snippets and candidates into detections.

  Attributes:
    num_kept, num_candidates, sigma, min_score, class_wise, vote_iou: see
      `SuppressionConfig`.
    classes_per_segment: number of best classes scored per proposal.
    boundary_filter: whether a proposal must begin and end at likely boundaries
      (BSN's rule).
    ends_at_next_step: whether a proposal's end is that of the next snippet, as
      in the public code of BMN and G-TAD: none ends with the sequence.
    max_steps: maximum length of a detection, in snippets; 0 for any length.
    boundary_scores: whether to multiply scores by the probabilities of the
      proposal's start and end.
    decay_iou: (for length 0, for the whole sequence) IoU above which a
      detection decays others, interpolated by its length.
  """

  classes_per_segment: int = 2
  boundary_filter: bool = True
  ends_at_next_step: bool = False
  max_steps: int = 0
  boundary_scores: bool = False
  decay_iou: tuple[float, float] = (0.0, 0.0)

  def __post_init__(self):
    super().__post_init__()
    # JSON has no tuples.
    object.__setattr__(self, "decay_iou", tuple(self.decay_iou))
    if len(self.decay_iou) != 2 or not all(0 <= v < 1 for v in self.decay_iou):
      raise ValueError(
        f"decay_iou must be two of [0, 1), got {self.decay_iou}."
      )

  def suppress_within(
    self, candidates: Detections, *, num_steps: int
  ) -> Detections:
    """Suppresses a sequence's candidates; see `SuppressionConfig`."""
    low, high = self.decay_iou
    if not (self.sigma and max(low, high)):
      return self.suppress(candidates)
    length = candidates.segments[:, 1] - candidates.segments[:, 0]
    return nms.soft_nms(
      candidates,
      num_kept=self.num_kept,
      sigma=self.sigma,
      min_score=self.min_score,
      class_wise=self.class_wise,
      least_iou=low + (high - low) * length / num_steps,
    )


def decode(
  predictions: ProposalPredictions, *, config: GtadDecodeConfig
) -> Detections:
  """Computes the detections of every video, best first, entirely in XLA.

  A proposal's score is the product of its confidences, times the mean
  probability of a class over its snippets if the head has classes.
  """
  proposals = predictions.proposals
  # These differ between videos; the proposals are the same for all.
  videos = predictions._replace(proposals=None)
  return jax.vmap(lambda one: _decode_one(one, proposals, config=config))(
    videos
  )


def _decode_one(
  video: ProposalPredictions,
  proposals: proposal_ops.Proposals,
  *,
  config: GtadDecodeConfig,
) -> Detections:
  sigmoid, mask = jax.nn.sigmoid, video.mask
  allowed = video.proposal_mask
  end = proposals.start + proposals.duration - 1
  if config.ends_at_next_step:
    end = end + 1
    allowed &= jnp.append(mask, False)[end]
    end = np.minimum(end, len(mask) - 1)
  if config.max_steps:
    allowed &= jnp.asarray(proposals.duration <= config.max_steps)
  if config.boundary_filter:
    first = jnp.argmax(mask)
    last = mask.shape[0] - 1 - jnp.argmax(mask[::-1])
    # The ends of the video always count.
    begins = proposal_ops.boundary_peaks(sigmoid(video.start_logits), mask)
    ends = proposal_ops.boundary_peaks(sigmoid(video.end_logits), mask)
    begins, ends = begins.at[first].set(True), ends.at[last].set(True)
    allowed &= begins[proposals.start] & ends[end]
  if video.class_logits is None:
    best = jnp.ones((len(proposals.start), 1))
    label = jnp.zeros((len(proposals.start), 1), jnp.int32)
  else:
    by_class = proposal_ops.mean_over_proposals(
      jnp.where(mask[:, None], sigmoid(video.class_logits), 0.0), proposals
    )
    count = min(config.classes_per_segment, by_class.shape[-1])
    best, label = jax.lax.top_k(by_class, count)  # (m, count)
  count = best.shape[-1]
  confidence = sigmoid(video.regression_logits)
  confidence *= sigmoid(video.classification_logits)
  if config.boundary_scores:
    confidence *= sigmoid(video.start_logits)[proposals.start]
    confidence *= sigmoid(video.end_logits)[end]
  scores = jnp.where(allowed[:, None], confidence[:, None] * best, -1.0)
  scores, index = jax.lax.top_k(
    scores.reshape(-1), min(config.num_candidates, scores.size)
  )
  segments = jnp.asarray(proposal_ops.proposal_segments(proposals))
  return config.suppress_within(
    Detections(
      segments=segments[index // count],
      scores=jnp.maximum(scores, 0.0),
      labels=label.reshape(-1)[index].astype(jnp.int32),
      mask=scores >= config.min_score,
    ),
    num_steps=len(mask),
  )
