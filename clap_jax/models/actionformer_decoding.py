"""Decodes ActionFormer's outputs to detections as its public code does."""

import dataclasses

import jax
import jax.numpy as jnp

from clap_jax.models.suppression import SuppressionConfig
from clap_jax.ops.points import PointPredictions, level_sizes, point_segments
from clap_jax.types import Detections


@dataclasses.dataclass(frozen=True)
class ActionFormerDecodeConfig(SuppressionConfig):
  """Options that turn predictions of points into detections.

  Attributes:
    num_kept, sigma, min_score, class_wise, vote_iou: see `SuppressionConfig`.
    num_candidates: number of best (point, class) pairs of each level that enter
      suppression.
    min_candidate_score: bound that a candidate's score must exceed.
    min_length: length that a candidate must exceed, in grid units.
  """

  num_candidates: int = 2000
  min_candidate_score: float = 0.001
  min_length: float = 0.05


def decode(
  predictions: PointPredictions,
  *,
  num_levels: int,
  config: ActionFormerDecodeConfig,
) -> Detections:
  """Computes the detections of every video, best first, entirely in XLA."""
  found = candidates(predictions, num_levels=num_levels, config=config)
  return jax.vmap(config.suppress)(found)


def candidates(
  predictions: PointPredictions,
  *,
  num_levels: int,
  config: ActionFormerDecodeConfig,
) -> Detections:
  """Returns the best (point, class) pairs of each level, before suppression."""
  num_points, num_classes = predictions.class_logits.shape[1:]
  num_steps = _num_steps(num_points, num_levels)
  segments = point_segments(predictions)
  scores = jax.nn.sigmoid(predictions.class_logits)
  scores = jnp.where(predictions.point_mask[..., None], scores, -1.0)
  parts, start = [], 0
  for size in level_sizes(num_steps, num_levels=num_levels):
    level = scores[:, start : start + size].reshape(len(scores), -1)
    best, index = jax.lax.top_k(
      level, min(config.num_candidates, size * num_classes)
    )
    own = segments[:, start : start + size]
    chosen = jnp.take_along_axis(own, (index // num_classes)[..., None], axis=1)
    is_long = chosen[..., 1] - chosen[..., 0] > config.min_length
    parts.append(
      Detections(
        segments=chosen,
        scores=jnp.maximum(best, 0.0),
        labels=(index % num_classes).astype(jnp.int32),
        mask=is_long & (best > config.min_candidate_score),
      )
    )
    start += size
  return Detections(
    *(jnp.concatenate(fields, axis=1) for fields in zip(*parts, strict=True))
  )


def _num_steps(num_points: int, num_levels: int) -> int:
  """Returns the number of steps of a pyramid with this many points in total."""
  # Sequences are multiples of the coarsest stride, see padded_length.
  per_coarse_step = 2**num_levels - 1
  if num_points % per_coarse_step:
    raise ValueError(
      f"{num_points} points are not those of {num_levels} whole levels; pad "
      "the sequence to a multiple of the coarsest stride."
    )
  return 2 ** (num_levels - 1) * (num_points // per_coarse_step)
