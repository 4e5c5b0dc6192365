"""Tiled contrastive loss over a mesh axis with a custom backward pass.

Two schedules of the same sweep over tiles, all with linear memory:

* ring: clips stay in place, texts rotate by `ppermute`, together with their
  inputs of the mask rules and the log-sum-exps of their columns. After one
  round all are back. The backward pass is another ring, which carries the
  texts, their residuals and their gradient. No intermediate of a ring is saved:
  the residuals are the embeddings and a few numbers per item.
* tiled: all texts are gathered on every device, which then computes
  independently; the column statistics are merged and the text gradient is
  reduce-scattered. It needs fewer, larger messages, but memory that grows with
  the global batch rather than a device's share of it.

The derivative is defined outside of `shard_map`, on global arrays, so that no
collective is ever transposed.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from clap_jax.losses import contrastive
from clap_jax.losses import contrastive_states as states
from clap_jax.losses import contrastive_tiles as tiles
from clap_jax.types import PairMetadata


@dataclasses.dataclass(frozen=True)
class SweepPlan:
  """Static settings of a loss over devices.

  Attributes:
    tile: how a block is visited.
    axes: mesh axes of the batch; none on one device.
    num_shards: devices along these axes together.
    schedule: `ring` or `tiled`.
  """

  tile: tiles.TilePlan
  axes: tuple[str, ...]
  num_shards: int
  schedule: str


class Shard(NamedTuple):
  """The share of the batch that one device processes."""

  rows: tiles.Items
  columns: tiles.Items
  scalars: tiles.Scalars


def _sum_devices(plan, tree):
  return jax.lax.psum(tree, plan.axes) if plan.axes else tree


def _gather(plan, tree):
  if not plan.axes:
    return tree
  return jax.tree.map(
    lambda leaf: jax.lax.all_gather(leaf, plan.axes, axis=0, tiled=True), tree
  )


def _to_next_device(plan, tree):
  """Sends every leaf to the next device of the ring."""
  if not plan.axes:
    return tree
  size = plan.num_shards
  pairs = [(i, (i + 1) % size) for i in range(size)]
  return jax.tree.map(
    lambda leaf: jax.lax.ppermute(leaf, plan.axes, pairs), tree
  )


def _own_slice(plan, tree, size):
  if not plan.axes:
    return tree
  start = jax.lax.axis_index(plan.axes) * size
  return jax.tree.map(
    lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, start, size), tree
  )


def _merge_over_devices(plan, state):
  """Merges log-sum-exps over the entries of different devices."""

  def merge(sums):
    peak = jax.lax.pmax(sums.peak, plan.axes)
    total = sums.total * jnp.exp(sums.peak - peak)
    return contrastive.LogSums(peak, jax.lax.psum(total, plan.axes))

  # Peaks first: totals can be added only when all are relative to one peak.
  if not plan.axes:
    return state
  return jax.tree.map(
    merge, state, is_leaf=lambda node: isinstance(node, contrastive.LogSums)
  )


def _forward_ring(plan, shard):
  rows, columns, scalars = shard
  size = rows.embedding.shape[0]
  initial = states.initial_states(
    plan.tile.objective, num_rows=size, num_columns=size
  )

  # Each device keeps its rows; the columns travel with their own states, so
  # that after `num_shards` hops every pair was seen once and every column is
  # back and complete, without any reduction over devices.
  def hop(_, carry):
    columns, row_state, column_state = carry
    row_state, column_state = tiles.forward_block(
      plan.tile,
      rows,
      columns,
      row_state=row_state,
      column_state=column_state,
      scalars=scalars,
    )
    columns, column_state = _to_next_device(plan, (columns, column_state))
    return columns, row_state, column_state

  return jax.lax.fori_loop(0, plan.num_shards, hop, (columns, *initial))[1:]


def _forward_tiled(plan, shard):
  rows, columns, scalars = shard
  size = rows.embedding.shape[0]
  row_state, column_state = states.initial_states(
    plan.tile.objective, num_rows=size, num_columns=size * plan.num_shards
  )
  row_state, column_state = tiles.forward_block(
    plan.tile,
    rows,
    _gather(plan, columns),
    row_state=row_state,
    column_state=column_state,
    scalars=scalars,
  )
  merged = _merge_over_devices(plan, column_state)
  return row_state, _own_slice(plan, merged, size)


def _backward_ring(plan, shard, residuals, gradient):
  rows, columns, scalars = shard

  # The gradient of a column travels with the column and collects the terms of
  # each device's rows. Logits are computed again from the embeddings: to keep
  # them would take b * b numbers, which the sweep exists to avoid.
  def hop(_, carry):
    columns, residual, gradient = carry
    gradient = tiles.backward_block(
      plan.tile,
      rows,
      columns,
      row_residual=residuals[0],
      column_residual=residual,
      gradient=gradient,
      scalars=scalars,
    )
    columns, residual, by_column = _to_next_device(
      plan, (columns, residual, gradient.columns)
    )
    return columns, residual, gradient._replace(columns=by_column)

  carry = columns, residuals[1], gradient
  return jax.lax.fori_loop(0, plan.num_shards, hop, carry)[-1]


def _backward_tiled(plan, shard, residuals, gradient):
  rows, columns, scalars = shard
  size, width = rows.embedding.shape
  by_column = jnp.zeros((size * plan.num_shards, width), jnp.float32)
  gradient = tiles.backward_block(
    plan.tile,
    rows,
    _gather(plan, columns),
    row_residual=residuals[0],
    column_residual=_gather(plan, residuals[1]),
    gradient=gradient._replace(columns=by_column),
    scalars=scalars,
  )
  if not plan.axes:
    return gradient
  scattered = jax.lax.psum_scatter(
    gradient.columns, plan.axes, scatter_dimension=0, tiled=True
  )
  return gradient._replace(columns=scattered)


_FORWARD_SWEEPS = {"ring": _forward_ring, "tiled": _forward_tiled}
_BACKWARD_SWEEPS = {"ring": _backward_ring, "tiled": _backward_tiled}


def _shard(plan, batch, scalars):
  video, text, pairs = batch
  sent = tiles.needed_pairs(pairs, plan.tile.rules)
  return Shard(tiles.Items(video, sent), tiles.Items(text, sent), scalars)


def _forward_shard(plan, batch, scalars):
  """Computes the two parts of the loss, and this device's residuals."""
  row_state, column_state = _FORWARD_SWEEPS[plan.schedule](
    plan, _shard(plan, batch, scalars)
  )
  weights = contrastive.caption_weights(batch[-1])
  count = _sum_devices(plan, jnp.sum(weights))
  if plan.tile.objective == "sigmoid":
    losses, row_residual = states.finish_sigmoid(row_state, count)
    residuals = row_residual, ()
  else:
    row_losses, row_residual = states.finish_softmax(row_state, weights, count)
    column_losses, column_residual = states.finish_softmax(
      column_state, weights, count
    )
    losses = row_losses, column_losses
    residuals = row_residual, column_residual
  parts = tuple(
    contrastive.safe_divide(_sum_devices(plan, jnp.sum(part)), count)
    for part in losses
  )
  return parts, residuals


def _backward_shard(plan, batch, scalars, residuals, cotangent):
  """Computes the gradient of this device's embeddings and the scalars."""
  video, text, _ = batch
  size, width = video.shape
  zeros = functools.partial(jnp.zeros, dtype=jnp.float32)
  gradient = tiles.BlockGradient(
    rows=zeros((size, width)),
    columns=zeros((size, width)),
    row_sums=zeros((size,)) if plan.tile.objective == "sigmoid" else None,
  )
  gradient = _BACKWARD_SWEEPS[plan.schedule](
    plan, _shard(plan, batch, scalars), residuals, gradient
  )
  # sum_ij dL/ds_ij (v_i . u_j), without another pass over the tiles.
  by_scale = _sum_devices(
    plan, jnp.sum(gradient.rows * video.astype(jnp.float32))
  )
  by_bias = jnp.zeros(())
  if gradient.row_sums is not None:
    by_bias = _sum_devices(plan, jnp.sum(gradient.row_sums))
  factor = cotangent * scalars.scale
  return (
    (factor * gradient.rows).astype(video.dtype),
    (factor * gradient.columns).astype(text.dtype),
    tiles.Scalars(cotangent * by_scale, cotangent * by_bias),
  )


def _over_devices(plan, shard, in_batch, out_batch) -> Callable[..., Any]:
  """Applies shard_map; the flags mark arguments and results split by the batch.

  It is never differentiated, so the replication check, for which the loop
  carries would need casts, has no benefit.
  """
  if not plan.axes:
    return shard
  rows, whole = PartitionSpec(plan.axes), PartitionSpec()
  return jax.shard_map(
    shard,
    in_specs=tuple(rows if batch else whole for batch in in_batch),
    out_specs=tuple(rows if batch else whole for batch in out_batch),
    check_vma=False,
  )


def _forward(plan, video, text, pairs, scalars):
  forward = _over_devices(
    plan,
    functools.partial(_forward_shard, plan),
    in_batch=(True, False),
    out_batch=(False, True),
  )
  batch = video, text, pairs
  parts, residuals = forward(batch, scalars)
  weight = 0.5 if plan.tile.objective == "softmax" else 1.0
  loss = weight * (parts[0] + parts[1])
  return (loss, parts), (batch, scalars, residuals)


def _backward(plan, saved, cotangents):
  backward = _over_devices(
    plan,
    functools.partial(_backward_shard, plan),
    in_batch=(True, False, True, False),
    out_batch=(True, True, False),
  )
  cotangent, _ = cotangents  # the parts are reported, never trained on
  by_video, by_text, by_scalars = backward(*saved, cotangent)
  return by_video, by_text, None, by_scalars


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def sweep_loss(
  plan: SweepPlan,
  video: jax.Array,  # (b, d)
  text: jax.Array,  # (b, d)
  pairs: PairMetadata,  # (b,) each, as text_groups returned it
  scalars: tiles.Scalars,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
  """Computes `contrastive.dense_loss` without any b x b array.

  The two parts are for reporting: no gradient flows through them.
  """
  return _forward(plan, video, text, pairs, scalars)[0]


sweep_loss.defvjp(_forward, _backward)
