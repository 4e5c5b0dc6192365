"""The peers' unmasked contrastive losses, re-stated from their algorithms.

Each factory returns a function (video, text, scale) -> (loss, (by_video,
by_text, by_scale)) for global arrays spread over the mesh axis `data`, to be
called inside jit under the mesh. All multiply float32 in full precision.
"""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from clap_jax.losses import contrastive, contrastive_tiles

AXIS = "data"


def _over_devices(shard, out_specs):
  rows, whole = PartitionSpec(AXIS), PartitionSpec()
  return jax.shard_map(
    shard, in_specs=(rows, rows, whole), out_specs=out_specs, check_vma=False
  )


def open_clip_loss(video, text, scale):
  """Both towers gathered, each direction its own product, plain autodiff.

  The algorithm of open_clip's ClipLoss with local_loss and gather_with_grad,
  which is also that of big_vision's softmax loss before it became dense.
  """

  def shard(video, text, scale):
    gather = functools.partial(
      jax.lax.all_gather, axis_name=AXIS, axis=0, tiled=True
    )
    size = video.shape[0]
    labels = jax.lax.axis_index(AXIS) * size + jnp.arange(size)

    def cross_entropy(own, others):
      logits = scale * contrastive.similarity(own, others)
      log_probabilities = jax.nn.log_softmax(logits)
      return -jnp.mean(
        jnp.take_along_axis(log_probabilities, labels[:, None], axis=1)
      )

    both = cross_entropy(video, gather(text)) + cross_entropy(
      text, gather(video)
    )
    return jax.lax.pmean(0.5 * both, AXIS)

  rows, whole = PartitionSpec(AXIS), PartitionSpec()
  return jax.shard_map(shard, in_specs=(rows, rows, whole), out_specs=whole)(
    video, text, scale
  )


def open_clip_form():
  """Value and gradient of open_clip_loss."""
  return jax.value_and_grad(open_clip_loss, argnums=(0, 1, 2))


def _over_tiles(rows, columns, update, states, tile_size):
  """update(row tile, column tile, row state, column state) on every tile."""
  row_tiles, column_tiles = contrastive_tiles.into_tiles(
    (rows, columns), tile_size
  )
  num_rows, num_columns = row_tiles[0].shape[0], column_tiles[0].shape[0]

  def at(tree, index):
    return jax.tree.map(lambda leaf: leaf[index], tree)

  def put(tree, index, values):
    return jax.tree.map(
      lambda leaf, value: leaf.at[index].set(value), tree, values
    )

  def visit(index, carry):
    i, j = index // num_columns, index % num_columns
    state, column_state = carry
    row_value, column_value = update(
      at(row_tiles, i), at(column_tiles, j), at(state, i), at(column_state, j)
    )
    return put(state, i, row_value), put(column_state, j, column_value)

  carry = contrastive_tiles.into_tiles(states, tile_size)
  carry = jax.lax.fori_loop(0, num_rows * num_columns, visit, carry)
  size = rows[0].shape[0]
  return tuple(contrastive_tiles.from_tiles(tree, size) for tree in carry)


def inf_cl_form(num_devices: int, tile_size: int):
  """One ring of tiles per direction, and per gradient: 10 matrix products.

  The algorithm of Inf-CL (Cheng et al., arXiv:2410.17243): each direction is a
  ring of its own; its backward pass recomputes the tiles once for the queries'
  gradient and once more for the keys'. Kept here with a running maximum.
  """
  next_device = [(i, (i + 1) % num_devices) for i in range(num_devices)]

  def send(tree):
    return jax.tree.map(
      lambda leaf: jax.lax.ppermute(leaf, AXIS, next_device), tree
    )

  def ring(rows, columns, update, state, column_state):
    def hop(_, carry):
      columns, state, column_state = carry
      state, column_state = _over_tiles(
        rows, columns, update, (state, column_state), tile_size
      )
      return *send((columns,)), state, send(column_state)

    carry = columns, state, column_state
    return jax.lax.fori_loop(0, num_devices, hop, carry)[1:]

  def direction(queries, keys, scale):
    size, width = queries.shape
    total = size * num_devices

    def log_sum(row, column, state, _):
      logits = scale * contrastive.similarity(row[0], column[0])
      peak = jnp.maximum(state[0], jnp.max(logits, axis=1))
      old = state[1] * jnp.exp(state[0] - peak)
      new = jnp.sum(jnp.exp(logits - peak[:, None]), axis=1)
      return (peak, old + new), ()

    def probabilities(row, column):
      logits = scale * contrastive.similarity(row[0], column[0])
      return jnp.exp(logits - row[1][:, None]) / total

    def by_query(row, column, state, _):
      return state + probabilities(row, column) @ column[0], ()

    def by_key(row, column, _, column_state):
      return (), column_state + probabilities(row, column).T @ row[0]

    empty = jnp.full((size,), contrastive.NO_ENTRY), jnp.zeros((size,))
    (peak, sums), _ = ring((queries,), (keys,), log_sum, empty, ())
    lse = peak + jnp.log(sums)
    zeros = jnp.zeros((size, width))
    rows = queries, lse
    query_sum, _ = ring(rows, (keys,), by_query, zeros, ())
    _, key_sum = ring(rows, (keys,), by_key, (), zeros)
    query_sum, key_sum = query_sum - keys / total, key_sum - queries / total
    diagonal = scale * jnp.sum(queries * keys, axis=1)
    loss = jax.lax.psum(jnp.sum(lse - diagonal), AXIS) / total
    by_scale = jax.lax.psum(jnp.sum(queries * query_sum), AXIS)
    return loss, (scale * query_sum, scale * key_sum, by_scale)

  def shard(video, text, scale):
    loss_vt, gradient_vt = direction(video, text, scale)
    loss_tv, gradient_tv = direction(text, video, scale)
    by_video = 0.5 * (gradient_vt[0] + gradient_tv[1])
    by_text = 0.5 * (gradient_vt[1] + gradient_tv[0])
    by_scale = 0.5 * (gradient_vt[2] + gradient_tv[2])
    return 0.5 * (loss_vt + loss_tv), (by_video, by_text, by_scale)

  rows, whole = PartitionSpec(AXIS), PartitionSpec()
  return _over_devices(shard, (whole, (rows, rows, whole)))


def sigmoid_form():
  """SigLIP's loss with the whole slice of the matrix kept by autodiff."""

  def shard(video, text, scale):
    texts = jax.lax.all_gather(text, AXIS, axis=0, tiled=True)
    size = video.shape[0]
    own = jax.lax.axis_index(AXIS) * size + jnp.arange(size)
    logits = scale * contrastive.similarity(video, texts) - 10.0
    signs = jnp.where(own[:, None] == jnp.arange(texts.shape[0]), 1.0, -1.0)
    total = -jnp.sum(jax.nn.log_sigmoid(signs * logits))
    return jax.lax.psum(total, AXIS) / texts.shape[0]

  def loss(video, text, scale):
    rows, whole = PartitionSpec(AXIS), PartitionSpec()
    return jax.shard_map(shard, in_specs=(rows, rows, whole), out_specs=whole)(
      video, text, scale
    )

  return jax.value_and_grad(loss, argnums=(0, 1, 2))
