"""Defines baselines of few-shot localization without training."""

import jax
import jax.numpy as jnp

from clap_jax.models.dual_encoder import l2_normalise
from clap_jax.models.fewshot_matcher import class_means, flatten_support
from clap_jax.ops.masking import masked_mean
from clap_jax.ops.points import PointPredictions, Points
from clap_jax.types import EpisodeBatch

_THRESHOLDS = tuple(
  step / 10 for step in range(1, 10)
)  # shares of a score's range
_SURELY_NOT = -30.0  # logit of an impossible point


def nearest_prototype(
  batch: EpisodeBatch, *, temperature: float
) -> PointPredictions:
  """Classifies steps by the nearest mean of frozen features.

  Features are centred on the support and normalised. A step belongs to the way
  or background whose mean has the largest cosine with it; a softmax converts
  the cosines to probabilities. If the support has no background (trimmed
  clips), its cosine is zero.
  """
  valid = batch.support_mask[..., None]
  center = masked_mean(batch.support, valid, axis=(1, 2, 3))
  centred = batch.support - center[:, None, None, None]
  support = flatten_support(batch, centred)
  action = support.positive_mask.any(axis=1)
  rest = batch.support_mask.reshape(action.shape) & ~action
  background = l2_normalise(
    masked_mean(support.features, rest[..., None], axis=1)
  )
  query = l2_normalise(batch.query - center[:, None])
  cosine = jnp.einsum(
    "btd,bnd->btn",
    query,
    jnp.concatenate([class_means(support), background[:, None]], axis=1),
  )
  return runs_as_points(_probability(cosine / temperature), batch.query_mask)


def text_only(batch: EpisodeBatch, *, logit_scale: float) -> PointPredictions:
  """Classifies steps by class names only (zero-shot); ignores the support."""
  probability = _probability(batch.query_text * logit_scale)
  return runs_as_points(probability, batch.query_mask)


def _probability(logits: jax.Array) -> jax.Array:
  """Computes a softmax over ways and background: (b, t, n + 1) -> (b, t, n)."""
  return jax.nn.softmax(logits, axis=-1)[..., :-1]


def runs_as_points(
  probability: jax.Array,  # (b, t, n), in [0, 1]
  mask: jax.Array,  # bool (b, t)
) -> PointPredictions:
  """Converts runs of steps above each of nine thresholds to points.

  The thresholds divide the range of a video's probabilities of a way. The score
  of a run is its mean probability; its point is its first step.
  """
  b, t, n = probability.shape
  inside = mask[:, None, :, None]
  low = jnp.min(jnp.where(mask[..., None], probability, 1.0), axis=1)
  high = jnp.max(jnp.where(mask[..., None], probability, 0.0), axis=1)
  share = jnp.array(_THRESHOLDS)[None, :, None, None]
  limit = low[:, None, None] + share * (high - low)[:, None, None]
  above = (probability[:, None] >= limit) & inside  # (b, j, t, n)
  before = jnp.pad(above[:, :, :-1], ((0, 0), (0, 0), (1, 0), (0, 0)))
  step = jnp.arange(t)[None, None, :, None]
  end = jax.lax.cummin(jnp.where(above, t, step), axis=2, reverse=True)
  total = jnp.pad(jnp.cumsum(probability, axis=1), ((0, 0), (1, 0), (0, 0)))
  total = jnp.broadcast_to(total[:, None], (b, len(_THRESHOLDS), t + 1, n))
  length = jnp.maximum(end - step, 1)
  mean = (
    jnp.take_along_axis(total, end, axis=2) - total[:, :, :-1]
  ) / length  # (b, j, t, n)
  mean = jnp.clip(mean, 1e-6, 1 - 1e-6)
  own = jnp.eye(n, dtype=bool)
  logits = jnp.where(own, jax.scipy.special.logit(mean)[..., None], _SURELY_NOT)
  num_points = len(_THRESHOLDS) * t * n
  position = jnp.broadcast_to(step, (1, len(_THRESHOLDS), t, n)).reshape(-1)
  zeros = jnp.zeros(num_points)
  return PointPredictions(
    class_logits=logits.reshape(b, num_points, n),
    offsets=jnp.stack(
      [jnp.full(length.shape, 0.5), length - 0.5], axis=-1
    ).reshape(b, num_points, 2),
    points=Points(
      position.astype(jnp.float32),
      jnp.ones(num_points),
      zeros,
      zeros,
      zeros.astype(jnp.int32),
    ),
    point_mask=(above & ~before).reshape(b, num_points),
  )
