"""Defines per-row and per-column states of the tiled contrastive loss.

A forward sweep updates what is known of every row and every column (`LogSums`,
or plain sums for the sigmoid objective). From these comes, for every item, what
gives any entry of the gradient again, G_ij = dL / ds_ij:

  - e^(s_ij - peak) * factor, with those of the positives, if (i, j) is in P,
    e^(s_ij - peak) * factor, with those of the negatives, if (i, j) is in N,

and 0 if masked, summed over the row's and the column's direction. Derivation:
with gap = lse_negative - lse_positive, an item's loss is softplus(gap), so its
derivative is sigmoid(gap) times the softmax over the negatives, and minus that
over the positives. The factor holds sigmoid(gap), the total of the softmax, the
item's weight and the normaliser. Peaks are kept apart from totals because
s - peak is exact near the peak, while s - lse is rounded at the size of s.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from clap_jax.losses import contrastive
from clap_jax.losses.contrastive import LogSums, PairMasks, PerMask


class Factors(NamedTuple):
  """Residuals of one softmax for the backward pass."""

  peak: jax.Array  # float32 (n,)
  factor: jax.Array  # float32 (n,); 0 for an item without loss


def initial_states(
  objective: str, *, num_rows: int, num_columns: int
) -> tuple[Any, Any]:
  """Returns the states of rows and columns before the first tile.

  The softmax keeps log-sum-exps of the positives and of the negatives of each
  row and column; the sigmoid sums its losses by row and keeps nothing by
  column.
  """
  if objective == "sigmoid":
    zeros = jnp.zeros((num_rows,), jnp.float32)
    return PerMask(zeros, zeros), ()

  def empty(size):
    return LogSums(
      jnp.full((size,), contrastive.NO_ENTRY, jnp.float32),
      jnp.zeros((size,), jnp.float32),
    )

  return (
    PerMask(empty(num_rows), empty(num_rows)),
    PerMask(empty(num_columns), empty(num_columns)),
  )


def _along(masks, pair, axis):
  """Selects each entry's value from two vectors, one per mask."""
  positive, negative = (jnp.expand_dims(vector, axis) for vector in pair)
  return jnp.where(masks.positive, positive, negative)


def _online_update(state, logits, masks, *, axis):
  """Adds one tile to the log-sum-exps along an axis, one exp per entry."""
  peaks = tuple(
    jnp.maximum(
      sums.peak,
      jnp.max(logits, axis=axis, where=mask, initial=contrastive.NO_ENTRY),
    )
    for sums, mask in zip(state, masks, strict=True)
  )
  exponential = jnp.exp(logits - _along(masks, peaks, axis))
  totals = (
    sums.total * jnp.exp(sums.peak - peak)
    + jnp.sum(exponential, axis=axis, where=mask)
    for sums, peak, mask in zip(state, peaks, masks, strict=True)
  )
  return PerMask(*map(LogSums, peaks, totals))


def update_states(
  objective: str,
  logits: jax.Array,
  *,
  masks: PairMasks,
  row_state: Any,
  column_state: Any,
) -> tuple[Any, Any]:
  """Adds one tile to the states of its rows and columns."""
  if objective == "sigmoid":
    losses = jax.nn.softplus(-logits), jax.nn.softplus(logits)
    row_state = PerMask(
      *(
        total + jnp.sum(loss, axis=1, where=mask)
        for total, loss, mask in zip(row_state, losses, masks, strict=True)
      )
    )
    return row_state, column_state
  return (
    _online_update(row_state, logits, masks, axis=1),
    _online_update(column_state, logits, masks, axis=0),
  )


def finish_sigmoid(
  row_state: PerMask, count: jax.Array
) -> tuple[PerMask, jax.Array]:
  """Returns unnormalised losses of rows, and their residual."""
  inverse = jnp.where(count > 0, 1.0 / jnp.maximum(count, 1.0), 0.0)
  return row_state, jnp.broadcast_to(inverse, row_state.positive.shape)


def finish_softmax(
  state: PerMask, weights: jax.Array, count: jax.Array
) -> tuple[jax.Array, PerMask]:
  """Returns unnormalised weighted losses of items, and their factors.

  The factors, and hence the gradient, are exactly 0 for an item without weight
  or negatives.
  """
  losses = contrastive.item_losses(*state, weights)
  gap, active = contrastive.item_gaps(*state, weights)
  # The loss is half of the weighted mean over items, in each direction.
  scale = 0.5 * weights / jnp.maximum(count, 1.0) * jax.nn.sigmoid(gap)
  factors = (
    jnp.where(active, scale / jnp.where(active, sums.total, 1.0), 0.0)
    for sums in state
  )
  peaks = (sums.peak for sums in state)
  return losses, PerMask(*map(Factors, peaks, factors))


def _softmax_gradient(logits, masks, factors, axis):
  peak, factor = (
    _along(masks, pair, axis) for pair in zip(*factors, strict=True)
  )
  return jnp.exp(logits - peak) * factor


def tile_gradient(
  objective: str,
  logits: jax.Array,
  *,
  masks: PairMasks,
  row_residual: Any,
  column_residual: Any,
) -> jax.Array:
  """Computes dL / ds of a tile, float32 (r, c); exactly 0 where masked."""
  if objective == "sigmoid":
    signed = jnp.where(masks.positive, -logits, logits)
    values = jax.nn.sigmoid(signed) * row_residual[:, None]
  else:
    values = _softmax_gradient(logits, masks, row_residual, 1)
    values += _softmax_gradient(logits, masks, column_residual, 0)
  values = jnp.where(masks.positive, -values, values)
  return jnp.where(masks.positive | masks.negative, values, 0.0)
