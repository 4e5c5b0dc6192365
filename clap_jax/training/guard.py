"""Skips non-finite and outlier updates."""

import jax
import jax.numpy as jnp

WINDOW_STEPS = 64  # accepted updates that say what is ordinary
_ENOUGH_STEPS = 32  # before that nothing is called an outlier
_MAD_TO_DEVIATION = 1.4826  # of a normal distribution
_LEAST_SPREAD = 0.05  # of the median: a loss that hardly moves may move again


def no_history() -> jax.Array:
  """The values before the first step: float32 (WINDOW_STEPS,) of NaN."""
  return jnp.full((WINDOW_STEPS,), jnp.nan, jnp.float32)


def remember(recent: jax.Array, value: jax.Array, ok: jax.Array) -> jax.Array:
  """`recent` with `value` as the newest where `ok`, else as it is."""
  value = jnp.asarray(value, jnp.float32)
  return jnp.where(ok, jnp.append(recent[1:], value), recent)


def is_outlier(
  value: jax.Array, recent: jax.Array, *, deviations: float
) -> jax.Array:
  """Whether `value` () lies far above the `recent` ones (w,).

  The measure is the median absolute deviation, which outliers cannot stretch,
  but at least 5 % of the median. Never so among fewer than 32 values, nor
  where they are all 0.

  Args:
    value: the newest; only large ones are outliers.
    recent: accepted values; NaN where there is none yet.
    deviations: how many standard deviations are too many.
  """
  median = jnp.nanmedian(recent)
  spread = _MAD_TO_DEVIATION * jnp.nanmedian(jnp.abs(recent - median))
  spread = jnp.maximum(spread, _LEAST_SPREAD * jnp.abs(median))
  enough = jnp.sum(~jnp.isnan(recent)) >= _ENOUGH_STEPS
  # Not `value > limit`: against NaN, where nothing is known, nothing is far.
  return enough & (spread > 0) & (value > median + deviations * spread)
