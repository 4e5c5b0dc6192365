"""Defines points of a temporal pyramid and their target segments.

Level l of a pyramid over t steps holds ceil(t / 2^l) points at the grid
positions 0, 2^l, 2 * 2^l, ... A point predicts class scores and its distances
to the start and the end of one segment.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from clap_jax.ops import segments as segment_ops
from clap_jax.types import Array

# Segments whose lengths differ by less share a point's class target.
LENGTH_TIE = 1e-3


class Points(NamedTuple):
  """Points of all levels, finest level first. All (p,)."""

  position: Array  # float32, grid units
  stride: Array  # float32, grid units between points of the level
  range_low: Array  # float32, grid units; least reach of the level
  range_high: Array  # float32, grid units; greatest reach, maybe inf
  level: Array  # int32


class PointPredictions(NamedTuple):
  """Predictions of an anchor-free head for every point of a batch."""

  class_logits: Array  # float32 (b, p, c); c = 1 for grounding
  offsets: Array  # float32 (b, p, 2), grid units, >= 0: left, right
  points: Points
  point_mask: Array  # bool (b, p)


class PointTargets(NamedTuple):
  """Training targets of every point."""

  class_targets: Array  # float32 (p, c), 0 or 1
  offsets: Array  # float32 (p, 2), grid units; zero where not positive
  positive_mask: Array  # bool (p,)


def level_sizes(num_steps: int, *, num_levels: int) -> tuple[int, ...]:
  """Returns the number of points of each level."""
  return tuple(-(-num_steps // 2**level) for level in range(num_levels))


def regression_ranges(
  num_levels: int, *, range_factor: float
) -> tuple[tuple[float, float], ...]:
  """Returns the (low, high) regression range of levels in grid units.

  A level's greatest reach is range_factor times its stride, its least reach
  the greatest of the level below; the coarsest level has no upper bound. With
  factor 4 these are the ranges published for ActionFormer (ECCV 2022).
  """
  highs = [range_factor * 2**level for level in range(num_levels)]
  lows = [0.0, *highs[:-1]]
  return tuple(zip(lows, [*highs[:-1], float("inf")], strict=True))


def pyramid_points(
  num_steps: int, *, num_levels: int, range_factor: float
) -> Points:
  """Returns pyramid points over `num_steps` steps, as NumPy constants."""
  return points_in_ranges(
    num_steps, regression_ranges(num_levels, range_factor=range_factor)
  )


def points_in_ranges(
  num_steps: int, ranges: Sequence[tuple[float, float]]
) -> Points:
  """Returns `pyramid_points` for given (low, high) ranges of levels."""
  sizes = level_sizes(num_steps, num_levels=len(ranges))
  strides = [2**level for level in range(len(ranges))]

  def spread(values, dtype: Any = np.float32):  # one value per level -> (p,)
    return np.repeat(np.asarray(values, dtype), sizes)

  position = [np.arange(n) * s for n, s in zip(sizes, strides, strict=True)]
  return Points(
    position=np.concatenate(position).astype(np.float32),
    stride=spread(strides),
    range_low=spread([low for low, _ in ranges]),
    range_high=spread([high for _, high in ranges]),
    level=spread(range(len(ranges)), np.int32),
  )


def point_segments(predictions: PointPredictions) -> jax.Array:
  """Computes the predicted segments of points, (b, p, 2) in grid units."""
  position = jnp.asarray(predictions.points.position)
  return segment_ops.from_offsets(
    jnp.broadcast_to(position, predictions.offsets.shape[:-1]),
    predictions.offsets,
  )


def assign_targets(
  points: Points,
  point_mask: jax.Array,  # bool (p,)
  *,
  segments: jax.Array,  # (n, 2), grid units
  labels: jax.Array,  # int32 (n,)
  segment_mask: jax.Array,  # bool (n,)
  num_classes: int,
  center_radius: float,
) -> PointTargets:
  """Assigns at most one segment to each point of a video; vmap over videos.

  A segment is a candidate of a point that lies strictly inside it and less than
  `center_radius` strides from its middle, if the farther boundary lies in the
  reach of the point's level (both ends included). The shortest candidate wins,
  the first of equal ones; the classes of all candidates within `LENGTH_TIE` of
  the shortest are targets. A segment without any point inside, i.e. shorter
  than one grid step between two points, is not a target. Labels outside
  0..num_classes-1 give no class target.

  Source: ActionFormer, section 3.3, after FCOS (ICCV 2019).
  """
  n = segments.shape[0]
  if not n:
    p = point_mask.shape[0]
    return PointTargets(
      class_targets=jnp.zeros((p, num_classes)),
      offsets=jnp.zeros((p, 2)),
      positive_mask=jnp.zeros(p, bool),
    )
  position = jnp.asarray(points.position)[:, None]  # (p, 1)
  offsets = jnp.stack(
    [position - segments[None, :, 0], segments[None, :, 1] - position], axis=-1
  )  # (p, n, 2)
  candidate = _candidates(
    points, offsets, centers=segment_ops.centers(segments), radius=center_radius
  )
  candidate &= segment_mask[None] & point_mask[:, None]
  length = segment_ops.lengths(segments)
  length = jnp.where(candidate, length[None], jnp.inf)  # (p, n)
  shortest = jnp.argmin(length, axis=-1)
  positive_mask = jnp.any(candidate, axis=-1)
  chosen = jnp.take_along_axis(offsets, shortest[:, None, None], axis=1)
  tied = candidate & (length <= jnp.min(length, axis=-1)[:, None] + LENGTH_TIE)
  classes = jax.nn.one_hot(labels, num_classes)  # (n, c)
  return PointTargets(
    class_targets=jnp.minimum(tied.astype(jnp.float32) @ classes, 1.0),
    offsets=jnp.where(positive_mask[:, None], chosen[:, 0], 0.0),
    positive_mask=positive_mask,
  )


def _candidates(
  points: Points,
  offsets: jax.Array,  # (p, n, 2)
  *,
  centers: jax.Array,  # (n,)
  radius: float,
) -> jax.Array:  # bool (p, n)
  position = jnp.asarray(points.position)[:, None]
  stride = jnp.asarray(points.stride)[:, None]
  inside = jnp.min(offsets, axis=-1) > 0
  central = jnp.abs(position - centers[None]) < radius * stride
  reach = jnp.max(offsets, axis=-1)
  low = jnp.asarray(points.range_low)[:, None]
  high = jnp.asarray(points.range_high)[:, None]
  return inside & central & (reach >= low) & (reach <= high)
