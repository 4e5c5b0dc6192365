"""Computes reductions over the entries where a mask is True.

Entries where the mask is False, even NaN or infinity, affect neither the value
nor the gradient.
"""

import jax
import jax.numpy as jnp


def keep(x: jax.Array, mask: jax.Array) -> jax.Array:
  """Sets the steps (*b, t) outside the mask of x (*b, t, d) to zero."""
  return jnp.where(mask[..., None], x, 0)


def masked_sum(
  x: jax.Array, mask: jax.Array, *, axis: int | tuple[int, ...] | None
) -> jax.Array:
  """Computes the sum of valid elements; the mask broadcasts against x."""
  return jnp.sum(jnp.where(mask, x, 0), axis=axis)


def masked_mean(
  x: jax.Array, mask: jax.Array, *, axis: int | tuple[int, ...] | None
) -> jax.Array:
  """Computes the mean of valid elements, zero if there are none."""
  mask = jnp.broadcast_to(mask, x.shape)
  count = jnp.sum(mask, axis=axis)
  return masked_sum(x, mask, axis=axis) / jnp.maximum(count, 1)


def masked_max(
  x: jax.Array, mask: jax.Array, *, axis: int, empty: float
) -> jax.Array:
  """Computes the maximum of valid elements, `empty` if there are none."""
  mask = jnp.broadcast_to(mask, x.shape)
  lowest = jnp.finfo(x.dtype).min
  largest = jnp.max(jnp.where(mask, x, lowest), axis=axis)
  return jnp.where(jnp.any(mask, axis=axis), largest, empty)


def masked_softmax(
  logits: jax.Array, mask: jax.Array, *, axis: int
) -> jax.Array:
  """Computes the softmax over valid elements; zeros elsewhere."""
  lowest = jnp.finfo(logits.dtype).min
  # The maximum is finite even when nothing is valid, so no inf - inf arises.
  safe = jnp.where(mask, logits, lowest)
  return jnp.where(mask, jax.nn.softmax(safe, axis=axis), 0)


def masked_log_softmax(
  logits: jax.Array, mask: jax.Array, *, axis: int
) -> jax.Array:
  """Computes the log softmax over valid elements; zeros elsewhere."""
  lowest = jnp.finfo(logits.dtype).min
  safe = jnp.where(mask, logits, lowest)
  return jnp.where(mask, jax.nn.log_softmax(safe, axis=axis), 0)
