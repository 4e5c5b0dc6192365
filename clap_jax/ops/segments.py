"""Defines operations on temporal segments [start, end) in any unit.

A segment that does not end after its start has length zero and overlaps
nothing, not even itself. All functions have finite gradients there as well.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

# Shorter segments count as empty: their gradients would leave float32.
SHORTEST = 1e-12


def lengths(segments: jax.Array) -> jax.Array:  # (*b, 2) -> (*b,)
  """Computes lengths, zero for a reversed segment."""
  return jnp.maximum(segments[..., 1] - segments[..., 0], 0)


def centers(segments: jax.Array) -> jax.Array:  # (*b, 2) -> (*b,)
  """Computes midpoints."""
  return 0.5 * (segments[..., 0] + segments[..., 1])


def from_offsets(position: jax.Array, offsets: jax.Array) -> jax.Array:
  """Converts distances (left, right) from a point to a segment.

  Args:
    position: (*b,).
    offsets: (*b, 2), in the unit of the position.

  Returns:
    (*b, 2) segments [position - left, position + right).
  """
  return jnp.stack(
    [position - offsets[..., 0], position + offsets[..., 1]], axis=-1
  )


def intersection(a: jax.Array, b: jax.Array) -> jax.Array:
  """Computes intersection lengths: (*b, 2), (*b, 2) -> (*b,)."""
  start = jnp.maximum(a[..., 0], b[..., 0])
  return jnp.maximum(jnp.minimum(a[..., 1], b[..., 1]) - start, 0)


def iou(a: jax.Array, b: jax.Array) -> jax.Array:
  """Computes IoU in [0, 1]: (*b, 2), (*b, 2) -> (*b,)."""
  common = intersection(a, b)
  return _divide(common, lengths(a) + lengths(b) - common)


def giou(a: jax.Array, b: jax.Array) -> jax.Array:
  """Computes generalized IoU in [-1, 1]: IoU - uncovered share of the hull.

  Source: Rezatofighi et al., CVPR 2019, in one dimension.
  """
  common = intersection(a, b)
  union = lengths(a) + lengths(b) - common
  hull = _hull(a, b)
  return _divide(common, union) - _divide(jnp.maximum(hull - union, 0), hull)


def diou(a: jax.Array, b: jax.Array) -> jax.Array:
  """Computes distance IoU: IoU - (centre distance / hull length)^2.

  Source: Zheng et al., AAAI 2020, in one dimension.
  """
  distance = _divide(centers(a) - centers(b), _hull(a, b))
  return iou(a, b) - distance**2


def pairwise(
  similarity: Callable[[jax.Array, jax.Array], jax.Array],
  a: jax.Array,  # (*b, n, 2)
  *,
  other: jax.Array,  # (*b, m, 2)
) -> jax.Array:  # (*b, n, m)
  """Computes a similarity of all pairs of segments of `a` and `other`."""
  return similarity(a[..., :, None, :], other[..., None, :, :])


def _hull(a: jax.Array, b: jax.Array) -> jax.Array:
  start = jnp.minimum(a[..., 0], b[..., 0])
  return jnp.maximum(jnp.maximum(a[..., 1], b[..., 1]) - start, 0)


def _divide(numerator: jax.Array, denominator: jax.Array) -> jax.Array:
  """Divides, with zero where the denominator is (nearly) not positive."""
  positive = denominator > SHORTEST
  # Both branches of a `where` are differentiated: divide by one, not by zero.
  quotient = numerator / jnp.where(positive, denominator, 1)
  return jnp.where(positive, quotient, 0)
