"""Gradient of a loss over the whole batch, with encoders that see a part of it.

A contrastive loss couples all items of a batch, so its gradient is not a sum
over micro-batches. It is still exact in three steps, which bound the encoder's
memory by the micro-batch and the loss's memory by the embeddings:

1. encode micro-batch after micro-batch, keeping only the embeddings;
2. one loss over all embeddings, and its gradient by the embeddings;
3. encode each micro-batch again and pull its slice of that gradient back.

The price is one more forward pass of the encoders. Source: Gao et al., "Scaling
Deep Contrastive Learning Batch Size under Memory Limited Setup", section 3.2.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from clap_jax.losses import contrastive_sharded, contrastive_states

Params = Any
Batch = Any  # a pytree whose leaves all have the batch as leading axis
Embeddings = Any  # likewise
Objective = Callable[[Params, Embeddings, Batch], tuple[jax.Array, Any]]


def cached_value_and_grad(
  encode: Callable[[Params, Batch], Embeddings],
  objective: Objective,
  *,
  num_microbatches: int,
  axis_names: tuple[str, ...] | None = ("data", "fsdp"),
  deterministic: bool = False,
) -> Callable[[Params, Batch], tuple[tuple[jax.Array, Any], Params]]:
  """`jax.value_and_grad(..., has_aux=True)` of objective(encode(batch)).

  Args:
    encode: (params, slice of the batch) -> embeddings, item by item: an item's
      embedding may not depend on its neighbours. It runs twice on every slice,
      so anything random must come from keys in the batch.
    objective: (params, embeddings, batch) -> (loss, metrics), over the whole
      batch; `contrastive_loss` belongs here.
    num_microbatches: slices that every device cuts its share into. Under
      `deterministic`: slices of the global batch over all devices, a power of
      two and a multiple of their number.
    axis_names: mesh axes of the batch, as for `contrastive_loss`.
    deterministic: sums the slices' gradients along one fixed binary tree, so
      that 1, 2, 4, ... devices give the same bits, if the objective does too
      and XLA rounds `encode` alike on all of them. Of small encoders that is
      true, of towers it is not: training/deterministic.py is for those.
      Parameters are then held whole by every device during the call.

  Returns:
    A function (params, batch) -> ((loss, metrics), gradients), to be called
    inside jit under the mesh. Gradients are summed in float32 and returned in
    the dtype of the parameters.
  """

  def value_and_grad(params, batch):
    axes = contrastive_sharded.batch_axes(axis_names)
    shards = contrastive_sharded.num_shards(axes)
    size = jax.tree.leaves(batch)[0].shape[0]
    _check_slices(size, num_microbatches, shards, deterministic)
    passes = _canonical_passes if deterministic else _scanned_passes
    forward, pull_back = passes(encode, num_microbatches, axes)
    embeddings = forward(params, batch)
    (loss, metrics), (direct, by_embedding) = jax.value_and_grad(
      objective, argnums=(0, 1), has_aux=True
    )(params, embeddings, batch)
    by_encoder = pull_back(params, batch, by_embedding)
    gradient = jax.tree.map(
      lambda param, a, b: (a + b).astype(param.dtype),
      params,
      direct,
      by_encoder,
    )
    return (loss, metrics), gradient

  return value_and_grad


def encode_in_slices(
  encode: Callable[[Params, Batch], Embeddings],
  params: Params,
  batch: Batch,
  *,
  num_microbatches: int,
  axis_names: tuple[str, ...] | None = ("data", "fsdp"),
) -> Embeddings:
  """encode(params, batch), slice by slice, differentiable in `params`.

  The steps of `cached_value_and_grad` as one function, for losses that are
  differentiated as a whole: the encoder's memory is that of one slice, since
  the backward pass encodes each slice again. Arguments are as there; gradients
  are summed in the dtype of the parameters.
  """
  axes = contrastive_sharded.batch_axes(axis_names)
  size = jax.tree.leaves(batch)[0].shape[0]
  shards = contrastive_sharded.num_shards(axes)
  _check_slices(size, num_microbatches, shards, deterministic=False)
  if num_microbatches == 1:
    return encode(params, batch)
  split, join = _slicing(num_microbatches, axes)
  again = jax.checkpoint(encode)
  embeddings = jax.lax.map(
    lambda piece: again(params, piece), jax.tree.map(split, batch)
  )
  return jax.tree.map(join, embeddings)


def _check_slices(size, num_microbatches, shards, deterministic):
  if deterministic:
    powers = all(n & (n - 1) == 0 for n in (num_microbatches, shards))
    if not powers or num_microbatches % shards or size % num_microbatches:
      raise ValueError(
        "deterministic=True needs num_microbatches, a power of two that "
        "divides the batch and is a multiple of the devices (a power of two as "
        f"well): got num_microbatches={num_microbatches}, a batch of {size} "
        f"and {shards} devices."
      )
  elif size % (num_microbatches * shards):
    raise ValueError(
      f"The batch of {size} must be a multiple of num_microbatches="
      f"{num_microbatches} times the {shards} devices it is spread over."
    )


def _encoder_gradient(encode, params, piece, by_embedding):
  _, pull = jax.vjp(lambda params: encode(params, piece), params)
  (gradient,) = pull(by_embedding)
  return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), gradient)


def _float_zeros(params, *leading):
  return jax.tree.map(
    lambda leaf: jnp.zeros((*leading, *leaf.shape), jnp.float32), params
  )


def _slicing(num_slices, axes):
  """(split, join) of arrays; every slice holds an equal part of each device."""
  shards = contrastive_sharded.num_shards(axes)

  def split(leaf):  # (b, ...) -> (slices, b / slices, ...), moving nothing
    leaf = leaf.reshape(shards, num_slices, -1, *leaf.shape[1:])
    leaf = jnp.swapaxes(leaf, 0, 1)
    leaf = leaf.reshape(num_slices, -1, *leaf.shape[3:])
    if axes:
      spec = PartitionSpec(None, axes)
      leaf = jax.lax.with_sharding_constraint(leaf, spec)
    return leaf

  def join(leaf):  # the inverse of split
    leaf = leaf.reshape(num_slices, shards, -1, *leaf.shape[2:])
    leaf = jnp.swapaxes(leaf, 0, 1)
    leaf = leaf.reshape(-1, *leaf.shape[3:])
    if axes:
      leaf = jax.lax.with_sharding_constraint(leaf, PartitionSpec(axes))
    return leaf

  return split, join


def _scanned_passes(encode, num_slices, axes):
  """Both passes as scans."""
  split, join = _slicing(num_slices, axes)

  def forward(params, batch):
    pieces = jax.tree.map(split, batch)
    embeddings = jax.lax.map(lambda piece: encode(params, piece), pieces)
    return jax.tree.map(join, embeddings)

  def pull_back(params, batch, by_embedding):
    def add(total, slices):
      gradient = _encoder_gradient(encode, params, *slices)
      return jax.tree.map(jnp.add, total, gradient), None

    slices = jax.tree.map(split, (batch, by_embedding))
    return jax.lax.scan(add, _float_zeros(params), slices)[0]

  return forward, pull_back


def _canonical_passes(encode, num_slices, axes):
  """Both passes over the canonical slices that this device holds.

  A slice must compile to the same arithmetic however many a device holds: the
  number of turns is hidden from the compiler, and a slice that is never visited
  is appended, so that reading one is always a real slicing.
  """
  shards = contrastive_sharded.num_shards(axes)
  local = num_slices // shards
  rows, whole = PartitionSpec(axes), PartitionSpec()

  def over_devices(function, in_specs, out_specs):
    if not axes:
      return function
    return jax.shard_map(
      function, in_specs=in_specs, out_specs=out_specs, check_vma=False
    )

  def split(leaf):
    leaf = leaf.reshape(local, -1, *leaf.shape[1:])
    return jnp.pad(leaf, [(0, 1)] + [(0, 0)] * (leaf.ndim - 1))

  def at(tree, index):
    return jax.tree.map(lambda leaf: leaf[index], tree)

  def forward(params, batch):
    pieces = jax.tree.map(split, batch)
    shapes = jax.eval_shape(encode, params, at(pieces, 0))
    buffers = jax.tree.map(
      lambda leaf: jnp.zeros((local + 1, *leaf.shape), leaf.dtype), shapes
    )

    def visit(k, buffers):
      embeddings = encode(params, at(pieces, k))
      return jax.tree.map(
        lambda buffer, leaf: buffer.at[k].set(leaf), buffers, embeddings
      )

    buffers = jax.lax.fori_loop(0, _unknown(local, params), visit, buffers)
    return jax.tree.map(
      lambda buffer: buffer[:local].reshape(-1, *buffer.shape[2:]), buffers
    )

  def pull_back(params, batch, by_embedding):
    slices = jax.tree.map(split, (batch, by_embedding))
    fence = contrastive_states.rounding_fence(_first_scalar(params))

    def visit(k, levels):
      gradient = _encoder_gradient(encode, params, *at(slices, k))
      return _tree_add(levels, jax.tree.map(fence, gradient), k)

    depth = local.bit_length()
    levels = jax.lax.fori_loop(
      0, _unknown(local, params), visit, _float_zeros(params, depth)
    )
    return _butterfly_sum(at(levels, depth - 1), axes, shards)

  return (
    over_devices(forward, (whole, rows), rows),
    over_devices(pull_back, (whole, rows, rows), whole),
  )


def _first_scalar(params):
  return jax.tree.leaves(params)[0].ravel()[0]


def _unknown(count, params):
  """The count, which the compiler cannot tell from count + 1."""
  return count + jnp.isnan(_first_scalar(params)).astype(jnp.int32)


def _tree_add(levels, value, index):
  """Adds value number `index` to a binary tree sum.

  levels[l] holds the sum of a finished subtree of 2^l values; a new value is
  carried upwards like a one in binary counting. Memory: one more level than
  log2 of the number of values.
  """

  def carries(state):
    level, _ = state
    return (index >> level) & 1 == 1

  def carry(state):
    level, value = state
    merged = jax.tree.map(lambda a, b: a[level] + b, levels, value)
    return level + 1, merged

  level, value = jax.lax.while_loop(carries, carry, (0, value))
  return jax.tree.map(lambda a, b: a.at[level].set(b), levels, value)


def _butterfly_sum(tree, axes, shards):
  """Finishes the binary tree over devices; all end with the same bits."""
  for bit in (1 << level for level in range(shards.bit_length() - 1)):
    pairs = [(i, i ^ bit) for i in range(shards)]
    tree = jax.tree.map(
      lambda leaf, pairs=pairs: leaf + jax.lax.ppermute(leaf, axes, pairs),
      tree,
    )
  return tree
