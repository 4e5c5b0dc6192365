"""Skips non-finite and outlier updates."""

import jax
import jax.numpy as jnp

WINDOW_STEPS = 64  # accepted updates to compare with
_ENOUGH_STEPS = 32  # with fewer, nothing is an outlier
_MAD_TO_DEVIATION = 1.4826  # of a normal distribution
_LEAST_SPREAD = 0.05  # of the median, for a loss that hardly changes


def no_history() -> jax.Array:
  """Returns the initial history: float32 (WINDOW_STEPS,) of NaN."""
  return jnp.full((WINDOW_STEPS,), jnp.nan, jnp.float32)


def remember(recent: jax.Array, value: jax.Array, ok: jax.Array) -> jax.Array:
  """Appends `value` to `recent` where `ok`, else returns it unchanged."""
  value = jnp.asarray(value, jnp.float32)
  return jnp.where(ok, jnp.append(recent[1:], value), recent)


def is_outlier(
  value: jax.Array, recent: jax.Array, *, deviations: float
) -> jax.Array:
  """Returns True if `value` () is far above the `recent` ones (w,).

  The scale is the median absolute deviation, which is robust to outliers, but
  at least 5 % of the median. Always False for fewer than 32 values, or if they
  are all 0.

  Args:
    value: the newest value; only large ones are outliers.
    recent: accepted values; NaN for missing ones.
    deviations: threshold in standard deviations.
  """
  median = jnp.nanmedian(recent)
  spread = _MAD_TO_DEVIATION * jnp.nanmedian(jnp.abs(recent - median))
  spread = jnp.maximum(spread, _LEAST_SPREAD * jnp.abs(median))
  enough = jnp.sum(~jnp.isnan(recent)) >= _ENOUGH_STEPS
  # Not `value > limit`: compared with NaN, no value is an outlier.
  return enough & (spread > 0) & (value > median + deviations * spread)
