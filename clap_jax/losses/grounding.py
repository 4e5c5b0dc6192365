"""Losses of the grounder: which moment a sentence means, and whether any."""

import dataclasses

import jax
import jax.numpy as jnp

from clap_jax.losses.localization import (
  PointLossConfig,
  assign_batch,
  point_loss,
)
from clap_jax.ops.masking import masked_log_softmax
from clap_jax.ops.points import PointPredictions
from clap_jax.types import GroundingBatch


@dataclasses.dataclass(frozen=True)
class GroundingLossConfig:
  """Hyper-parameters of the grounding loss.

  Attributes:
    points: focal and boundary loss of the points.
    listwise_weight: weight of the cross entropy that makes the points of a
      video compete for the query, beside the independent focal loss; 0 turns
      it off.
    absence_weight: weight of the loss of the absence score.
  """

  points: PointLossConfig = dataclasses.field(default_factory=PointLossConfig)
  listwise_weight: float = 0.0
  absence_weight: float = 0.1

  def __post_init__(self):
    if self.listwise_weight < 0 or self.absence_weight < 0:
      raise ValueError(
        "listwise_weight and absence_weight must be >= 0, got "
        f"{self.listwise_weight} and {self.absence_weight}."
      )


def grounding_loss(
  predictions: PointPredictions,  # of q queries, one class
  batch: GroundingBatch,
  *,
  config: GroundingLossConfig,
) -> dict[str, tuple[jax.Array, jax.Array]]:
  """Point, boundary and (if weighted) listwise loss of a batch of queries.

  Returns:
    {"class": .., "offset": .., "listwise": ..}, each (sum, count) as float32
    scalars with the weight already in the sum; the loss is the total of
    sum / max(count, 1) after adding both over devices. The first two count
    positive points, the last counts queries with at least one. Queries that
    are not `valid` add nothing.
  """
  predictions = predictions._replace(
    point_mask=predictions.point_mask & batch.valid[:, None]
  )
  targets = assign_batch(
    predictions,
    segments=batch.segment[:, None],
    labels=jnp.zeros(batch.valid.shape[0], jnp.int32)[:, None],
    segment_mask=batch.valid[:, None],
    center_radius=config.points.center_radius,
  )
  parts = point_loss(predictions, targets, config=config.points)
  if config.listwise_weight:
    per_query = listwise_loss(
      predictions.class_logits[..., 0],
      targets.positive_mask,
      point_mask=predictions.point_mask,
    )
    count = jnp.sum(jnp.any(targets.positive_mask, axis=-1))
    parts["listwise"] = (
      config.listwise_weight * jnp.sum(per_query),
      count.astype(jnp.float32),
    )
  return parts


def listwise_loss(
  logits: jax.Array,  # (q, p)
  positive_mask: jax.Array,  # bool (q, p)
  *,
  point_mask: jax.Array,  # bool (q, p)
) -> jax.Array:  # (q,)
  """Cross entropy between the softmax over points and the positive ones.

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
) -> dict[str, tuple[jax.Array, jax.Array]]:
  """Binary cross entropy of the absence score, {"absence": (sum, count)}."""
  sign = jnp.where(is_absent, 1.0, -1.0)
  per_query = jax.nn.softplus(-sign * logits)
  total = jnp.sum(jnp.where(valid, per_query, 0.0))
  count = jnp.sum(valid).astype(jnp.float32)
  return {"absence": (config.absence_weight * total, count)}
