"""Encodes a batch in slices for losses over the whole batch.

A contrastive loss couples all items of a batch, so its gradient is not a sum
over micro-batches. It stays exact if the encoder alone is cut into slices and
encodes each slice again in the backward pass: the encoder's memory is that of
one slice, the loss sees all embeddings, and the price is one more forward pass
of the encoder. Source: Gao et al., "Scaling Deep Contrastive Learning Batch
Size under Memory Limited Setup", section 3.2.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from clap_jax.losses import contrastive_sharded

Params = Any
Batch = Any  # a pytree whose leaves all have the batch as leading axis
Embeddings = Any  # likewise


def encode_in_slices(
  encode: Callable[[Params, Batch], Embeddings],
  params: Params,
  batch: Batch,
  *,
  num_microbatches: int,
  axis_names: tuple[str, ...] | None = ("data", "fsdp"),
) -> Embeddings:
  """Runs encode(params, batch) in slices, differentiable in `params`.

  Gradients are summed in the dtype of the parameters.

  Args:
    encode: (params, slice of the batch) -> embeddings, item by item: an item's
      embedding may not depend on its neighbours. It runs twice on every slice,
      so anything random must come from keys in the batch.
    params: parameters of the encoder.
    batch: global batch of all devices.
    num_microbatches: number of slices of each device's shard.
    axis_names: mesh axes of the batch, as for `contrastive_loss`.

  Raises:
    ValueError: the number of slices does not divide the batch.
  """
  axes = contrastive_sharded.batch_axes(axis_names)
  size = jax.tree.leaves(batch)[0].shape[0]
  shards = contrastive_sharded.num_shards(axes)
  if size % (num_microbatches * shards):
    raise ValueError(
      f"The batch of {size} must be a multiple of num_microbatches="
      f"{num_microbatches} times the {shards} devices it is spread over."
    )
  if num_microbatches == 1:
    return encode(params, batch)
  split, join = _slicing(num_microbatches, axes)
  again = jax.checkpoint(encode)
  embeddings = jax.lax.map(
    lambda piece: again(params, piece), jax.tree.map(split, batch)
  )
  return jax.tree.map(join, embeddings)


def _slicing(num_slices, axes):
  """Returns (split, join); each slice has an equal part of each device."""
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
