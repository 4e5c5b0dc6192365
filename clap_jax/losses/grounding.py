"""Computes losses of grounders: moments and their absence.

Inputs and outputs are described in query_targets.py. The criterion of detr is
in moment_detr.py.
"""

import dataclasses

import jax
import jax.numpy as jnp

from clap_jax.losses.localization import (
  PointLossConfig,
  assign_batch,
  point_loss,
  sum_in_chunks,
)
from clap_jax.losses.moment_detr import DetrLossConfig
from clap_jax.losses.query_targets import QueryTargets, Sums
from clap_jax.ops import segments as segment_ops
from clap_jax.ops.masking import masked_log_softmax
from clap_jax.ops.points import PointPredictions


@dataclasses.dataclass(frozen=True)
class GroundingLossConfig:
  """Hyper-parameters of the grounding loss.

  The listwise, absence and saliency losses apply to the pyramid and the map.

  Attributes:
    detr: the criterion of detr.
    points: focal and boundary loss of the pyramid's points.
    listwise_weight: weight of the cross entropy that makes the moments of a
      video compete for the query, in addition to their independent loss; 0
      disables it.
    absence_weight: weight of the loss of the absence score.
    saliency_weight: weight of the loss of the snippets' saliency.
    absent_moments: whether all moments of an absent query are negatives of the
      independent loss, or background of detr's labels.
    map_iou_low: IoU with the truth from which a candidate's target grows.
    map_iou_high: IoU from which it is one.
    map_positive_weight: weight of a target of one in the map's cross entropy.
    map_shift_weight: weight of the loss of the shifted ends.
  """

  detr: DetrLossConfig = dataclasses.field(default_factory=DetrLossConfig)
  points: PointLossConfig = dataclasses.field(default_factory=PointLossConfig)
  listwise_weight: float = 0.0
  absence_weight: float = 0.1
  saliency_weight: float = 0.0
  absent_moments: bool = False
  map_iou_low: float = 0.5
  map_iou_high: float = 1.0
  map_positive_weight: float = 1.0
  map_shift_weight: float = 1.0

  def __post_init__(self):
    weights = {
      name: getattr(self, name)
      for name in (
        "listwise_weight",
        "absence_weight",
        "saliency_weight",
        "map_positive_weight",
        "map_shift_weight",
      )
    }
    if min(weights.values()) < 0:
      raise ValueError(f"weights must be >= 0, got {weights}.")
    if not 0 <= self.map_iou_low < self.map_iou_high <= 1:
      raise ValueError(
        "map_iou_low must be in [0, 1) and below map_iou_high in (0, 1], got "
        f"{self.map_iou_low} and {self.map_iou_high}."
      )


def point_grounding_loss(
  predictions: PointPredictions,  # of q queries, one class
  targets: QueryTargets,
  *,
  config: GroundingLossConfig,
) -> Sums:
  """Computes point, boundary and (if weighted) listwise loss.

  Returns:
    {"class", "offset", "listwise"}: the first two count positive points, the
    last counts queries with at least one.
  """
  asked = targets.valid
  if not config.absent_moments:
    asked = asked & ~targets.is_absent
  predictions = predictions._replace(
    point_mask=predictions.point_mask & asked[:, None]
  )
  assigned = assign_batch(
    predictions,
    segments=targets.segments,
    labels=jnp.zeros(targets.segment_mask.shape, jnp.int32),
    segment_mask=targets.segment_mask & targets.valid[:, None],
    center_radius=config.points.center_radius,
  )
  parts = point_loss(predictions, assigned, config=config.points)
  return parts | _weighted_listwise(
    predictions.class_logits[..., 0],
    assigned.positive_mask,
    mask=predictions.point_mask,
    weight=config.listwise_weight,
  )


def _weighted_listwise(logits, positive_mask, *, mask, weight) -> Sums:
  if not weight:
    return {}
  per_query = listwise_loss(logits, positive_mask, point_mask=mask)
  count = jnp.sum(jnp.any(positive_mask & mask, axis=-1))
  return {"listwise": (weight * jnp.sum(per_query), count.astype(jnp.float32))}


def map_grounding_loss(
  logits: jax.Array,  # float32 (q, c)
  shifts: jax.Array,  # float32 (q, c, 2), grid units
  targets: QueryTargets,
  *,
  candidates: jax.Array,  # float32 (c, 2), grid units
  mask: jax.Array,  # bool (q, c)
  config: GroundingLossConfig,
) -> Sums:
  """Computes cross entropy of a moment map to scaled IoU, and boundary loss.

  A candidate's target grows from zero to one between the two IoUs of the
  config, as in 2D-TAN (equation 4). The shifted ends of candidates with a
  target above zero are compared with the moment that they overlap most, by one
  less the IoU.

  Returns:
    {"map", "shift", "listwise"}: the first counts queries (each the mean over
    its candidates), the second candidates with a target, the last queries with
    such a candidate.
  """
  asked = targets.valid
  if not config.absent_moments:
    asked = asked & ~targets.is_absent
  mask = mask & asked[:, None]
  present = targets.segment_mask & targets.valid[:, None]
  iou = segment_ops.pairwise(
    segment_ops.iou, candidates[None], other=targets.segments
  )  # (q, c, n)
  iou = jnp.where(present[:, None], iou, 0.0)
  best = jnp.max(iou, axis=-1)
  low, high = config.map_iou_low, config.map_iou_high
  target = jnp.clip((best - low) / (high - low), 0.0, 1.0)
  entropy = jax.nn.softplus(logits) - logits * target
  entropy = entropy * (1 + (config.map_positive_weight - 1) * target)
  entropy = jnp.where(mask, entropy, 0.0)
  per_query = jnp.sum(entropy, axis=-1) / jnp.maximum(jnp.sum(mask, axis=-1), 1)
  positive_mask = mask & (target > 0)
  nearest = jnp.take_along_axis(
    targets.segments, jnp.argmax(iou, axis=-1)[..., None], axis=1
  )  # (q, c, 2)
  # Where nothing is compared, stand-ins keep the unused gradient finite.
  shifted = jnp.where(
    positive_mask[..., None], candidates[None] + shifts, jnp.array([0.0, 1.0])
  )
  error = 1 - segment_ops.diou(shifted, nearest)
  parts = {
    "map": (jnp.sum(per_query), jnp.sum(asked).astype(jnp.float32)),
  }
  if config.map_shift_weight:
    parts["shift"] = (
      config.map_shift_weight
      * sum_in_chunks(jnp.where(positive_mask, error, 0.0)),
      jnp.sum(positive_mask).astype(jnp.float32),
    )
  near_best = target >= jnp.max(target, axis=-1, keepdims=True) - 1e-6
  return parts | _weighted_listwise(
    logits,
    positive_mask & near_best,
    mask=mask,
    weight=config.listwise_weight,
  )


def saliency_loss(
  logits: jax.Array,  # float32 (q, t)
  targets: QueryTargets,
  *,
  config: GroundingLossConfig,
) -> Sums:
  """Computes the cross entropy of snippet saliency; {} without weight.

  Each query is averaged over its snippets; absent queries have no salient
  snippet.
  """
  if not config.saliency_weight:
    return {}
  mask = targets.snippet_mask & targets.valid[:, None]
  entropy = jax.nn.softplus(logits) - logits * targets.saliency
  entropy = jnp.sum(jnp.where(mask, entropy, 0.0), axis=-1)
  per_query = entropy / jnp.maximum(jnp.sum(mask, axis=-1), 1)
  return {
    "saliency": (
      config.saliency_weight * jnp.sum(per_query),
      jnp.sum(targets.valid).astype(jnp.float32),
    )
  }


def listwise_loss(
  logits: jax.Array,  # (q, p)
  positive_mask: jax.Array,  # bool (q, p)
  *,
  point_mask: jax.Array,  # bool (q, p)
) -> jax.Array:  # (q,)
  """Computes the cross entropy of the softmax over points.

  The target is uniform over the positive points; a query without any has
  loss zero.
  """
  log_probability = masked_log_softmax(logits, point_mask, axis=-1)
  positive_mask = positive_mask & point_mask
  count = jnp.maximum(jnp.sum(positive_mask, axis=-1), 1)
  total = jnp.sum(jnp.where(positive_mask, log_probability, 0.0), axis=-1)
  return -total / count


def absence_loss(
  logits: jax.Array,  # (q,): high where the video lacks the moment
  is_absent: jax.Array,  # bool (q,)
  *,
  valid: jax.Array,  # bool (q,)
  config: GroundingLossConfig,
) -> Sums:
  """Computes the cross entropy of the absence score; {} without weight."""
  if not config.absence_weight:
    return {}
  sign = jnp.where(is_absent, 1.0, -1.0)
  per_query = jax.nn.softplus(-sign * logits)
  total = jnp.sum(jnp.where(valid, per_query, 0.0))
  count = jnp.sum(valid).astype(jnp.float32)
  return {"absence": (config.absence_weight * total, count)}
