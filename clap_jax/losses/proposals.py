"""Computes losses of the sub-graph localizer.

Source: G-TAD (Xu et al., CVPR 2020), section 3.4, and BMN (Lin et al., ICCV
2019), section 3.3, for the balanced cross entropy.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from clap_jax.losses.localization import sigmoid_focal_loss, sum_in_chunks
from clap_jax.ops import proposals as proposal_ops
from clap_jax.ops.proposals import ProposalPredictions
from clap_jax.types import LocalizationBatch

_BOUNDARY_WIDTH = 3.0  # steps around a boundary that count as near it
_BOUNDARY_POSITIVE = 0.5
_HIGH, _LOW = 0.7, 0.3  # IoU; edges of the regression's three ranges


@dataclasses.dataclass(frozen=True)
class ProposalLossConfig:
  """Hyper-parameters of the loss.

  Attributes:
    boundary_weight: weight of the start and end probabilities of steps.
    overlap_weight: weight of the regression of each candidate's IoU.
    quality_weight: weight of the classification of candidates by IoU.
    class_weight: weight of the classes of steps; 0 to use the classes of
      another model.
    quality_iou: IoU above which a candidate is positive.
    boundary_span_steps: length of a step's span, of which more than half must
      lie near a boundary; see ops.proposals.boundary_targets.
    focal_alpha: alpha of the class loss; see `PointLossConfig`.
    focal_gamma: gamma of the class loss.
  """

  boundary_weight: float = 1.0
  overlap_weight: float = 10.0
  quality_weight: float = 1.0
  class_weight: float = 1.0
  quality_iou: float = 0.9
  boundary_span_steps: float = 2.0
  focal_alpha: float = 0.25
  focal_gamma: float = 2.0

  def __post_init__(self):
    weights = (
      self.boundary_weight,
      self.overlap_weight,
      self.quality_weight,
      self.class_weight,
    )
    if min(weights) < 0 or not 0 < self.quality_iou < 1:
      raise ValueError(
        f"weights must be >= 0, got {weights}, and quality_iou in (0, 1), got "
        f"{self.quality_iou}."
      )
    if not self.boundary_span_steps > 0:
      raise ValueError(
        f"boundary_span_steps must be above 0, got {self.boundary_span_steps}."
      )


class ProposalTargets(NamedTuple):
  """Training targets of a batch's steps and candidates."""

  start: jax.Array  # float32 (b, t), in [0, 1]
  end: jax.Array  # float32 (b, t), in [0, 1]
  classes: jax.Array | None  # float32 (b, t, c), 0 or 1
  overlap: jax.Array  # float32 (b, m), IoU with the best segment


def proposal_targets(
  predictions: ProposalPredictions,
  batch: LocalizationBatch,
  *,
  boundary_span_steps: float,
) -> ProposalTargets:
  """Computes the targets of every video of a batch."""
  num_steps, logits = predictions.mask.shape[-1], predictions.class_logits
  near = functools.partial(
    proposal_ops.boundary_targets,
    num_steps=num_steps,
    width=_BOUNDARY_WIDTH,
    span_steps=boundary_span_steps,
  )

  def one(segments, labels, segment_mask):
    return ProposalTargets(
      start=near(segments[:, 0], segment_mask),
      end=near(segments[:, 1], segment_mask),
      classes=None
      if logits is None
      else proposal_ops.step_classes(
        segments,
        labels,
        segment_mask,
        num_steps=num_steps,
        num_classes=logits.shape[-1],
      ),
      overlap=proposal_ops.proposal_overlaps(
        predictions.proposals, segments, segment_mask
      ),
    )

  return jax.vmap(one)(batch.segments, batch.labels, batch.segment_mask)


def balanced_cross_entropy(
  logits: jax.Array, positive: jax.Array, mask: jax.Array
) -> jax.Array:
  """Computes mean binary cross entropy with balanced classes.

  With n valid elements, p of them positive, each positive weighs n / 2p and
  each negative n / 2(n - p). If all are of one kind, the other adds nothing.

  Args:
    logits: (b, ...).
    positive: bool, same shape.
    mask: bool, same shape; the mean is over these.
  """
  positive &= mask
  negative = ~positive & mask
  num_positive = jnp.sum(positive).astype(jnp.float32)
  num_negative = jnp.sum(negative).astype(jnp.float32)
  miss = sum_in_chunks(jnp.where(positive, jax.nn.softplus(-logits), 0.0))
  alarm = sum_in_chunks(jnp.where(negative, jax.nn.softplus(logits), 0.0))
  return 0.5 * (
    miss / jnp.maximum(num_positive, 1) + alarm / jnp.maximum(num_negative, 1)
  )


def overlap_loss(
  logits: jax.Array, overlap: jax.Array, mask: jax.Array, *, rng: jax.Array
) -> jax.Array:
  """Computes half the mean squared IoU error over balanced candidates.

  All with an IoU above 0.7 count, and of those between 0.3 and 0.7, and of
  those above 0 and up to 0.3, as many at random as there are of the first.

  Args:
    logits: (b, m) of the predicted IoU.
    overlap: (b, m) true IoU.
    mask: bool (b, m).
    rng: key of the draw.
  """
  high = mask & (overlap > _HIGH)
  middle = mask & (overlap > _LOW) & (overlap <= _HIGH)
  low = mask & (overlap > 0) & (overlap <= _LOW)
  num_high = jnp.maximum(jnp.sum(high), 1).astype(jnp.float32)
  draw = jax.random.uniform(rng, overlap.shape)
  kept = high
  for group in (middle, low):
    share = num_high / jnp.maximum(jnp.sum(group), 1)
    kept |= group & (draw < share)
  error = (jax.nn.sigmoid(logits) - overlap) ** 2
  count = jnp.maximum(jnp.sum(kept), 1)
  return 0.5 * sum_in_chunks(jnp.where(kept, error, 0.0)) / count


def proposal_loss(
  predictions: ProposalPredictions,
  batch: LocalizationBatch,
  *,
  config: ProposalLossConfig,
  rng: jax.Array,
) -> dict[str, jax.Array]:
  """Computes the weighted loss terms of a batch by name.

  The loss is the sum of the terms. Balancing is over the whole batch, so that
  the terms are not sums over videos. Padding videos (video_index -1) add
  nothing.
  """
  targets = proposal_targets(
    predictions, batch, boundary_span_steps=config.boundary_span_steps
  )
  valid = (batch.video_index >= 0)[:, None]
  mask = predictions.mask & valid
  proposal_mask = predictions.proposal_mask & valid
  boundary = sum(
    balanced_cross_entropy(logits, target > _BOUNDARY_POSITIVE, mask)
    for logits, target in (
      (predictions.start_logits, targets.start),
      (predictions.end_logits, targets.end),
    )
  )
  quality = balanced_cross_entropy(
    predictions.classification_logits,
    targets.overlap > config.quality_iou,
    proposal_mask,
  )
  terms = {
    "boundary": config.boundary_weight * boundary,
    "overlap": config.overlap_weight
    * overlap_loss(
      predictions.regression_logits, targets.overlap, proposal_mask, rng=rng
    ),
    "quality": config.quality_weight * quality,
  }
  if predictions.class_logits is not None:
    classes = _class_loss(
      predictions.class_logits, targets.classes, mask, config=config
    )
    terms["class"] = config.class_weight * classes
  return {name: value.astype(jnp.float32) for name, value in terms.items()}


def _class_loss(logits, classes, mask, *, config):
  """Computes the focal loss of classes over the steps within actions."""
  per_class = sigmoid_focal_loss(
    logits, classes, alpha=config.focal_alpha, gamma=config.focal_gamma
  )
  inside = jnp.any(classes > 0, axis=-1) & mask
  total = sum_in_chunks(jnp.where(mask[..., None], per_class, 0.0))
  return total / jnp.maximum(jnp.sum(inside), 1)
