"""Loops of the tiled contrastive loss over one block, without collectives.

A block is a set of rows (clips) against a set of columns (texts). It is visited
in tiles, so that only one tile of the matrix, of its masks and of its gradient
exists at a time.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from clap_jax.losses import contrastive
from clap_jax.losses import contrastive_states as states
from clap_jax.losses.contrastive import MaskRules
from clap_jax.types import PairMetadata


@dataclasses.dataclass(frozen=True)
class TilePlan:
  """Static settings of a sweep.

  Attributes:
    rules: rules of which pairs are not trusted negatives.
    objective: `softmax` or `sigmoid`.
    tile_size: upper limit of a tile's side, in items.
  """

  rules: MaskRules
  objective: str
  tile_size: int


class Items(NamedTuple):
  """One side of a block, n items."""

  embedding: jax.Array  # (n, d)
  pairs: PairMetadata  # (n,) each; leaves that no rule reads are None


class Scalars(NamedTuple):
  """Trained scalars of the loss, float32 () each."""

  scale: jax.Array
  bias: jax.Array


class BlockGradient(NamedTuple):
  """Gradient by rows and by columns, before the factor `scale`."""

  rows: jax.Array  # float32 (r, d)
  columns: jax.Array  # float32 (c, d)
  row_sums: jax.Array | None  # float32 (r,); sum of dL/ds over each row


def needed_pairs(pairs: PairMetadata, rules: MaskRules) -> PairMetadata:
  """Drops leaves that no rule reads, so that they are not transferred."""
  unread = {"action_share"}
  if not rules.same_class:
    unread |= {"class_id"}
  if not rules.overlapping_caption:
    unread |= {"video_id", "clip_start_sec", "clip_end_sec"}
    unread |= {"caption_start_sec", "caption_end_sec"}
  if not rules.background_pairs:
    unread |= {"generic_text"}
  if not (rules.same_class or rules.background_pairs):
    unread |= {"is_action"}
  return pairs._replace(**dict.fromkeys(unread))


def tile_shape(num_items: int, tile_size: int) -> tuple[int, int]:
  """Returns (number of tiles, items per tile) with little padding."""
  num_tiles = max(1, math.ceil(num_items / tile_size))
  return num_tiles, math.ceil(num_items / num_tiles)


def into_tiles(tree: Any, tile_size: int) -> Any:
  """Reshapes leaves (n, ...) to (tiles, items per tile, ...), zero-padded.

  Zero padding makes invalid items: `valid` is False.
  """

  def split(leaf):
    num_tiles, size = tile_shape(leaf.shape[0], tile_size)
    missing = num_tiles * size - leaf.shape[0]
    if missing:
      leaf = jnp.pad(leaf, [(0, missing)] + [(0, 0)] * (leaf.ndim - 1))
    return leaf.reshape(num_tiles, size, *leaf.shape[1:])

  return jax.tree.map(split, tree)


def from_tiles(tree: Any, num_items: int) -> Any:
  """Inverts `into_tiles`."""
  return jax.tree.map(
    lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:num_items], tree
  )


def _at(tree, index):
  return jax.tree.map(
    lambda leaf: jax.lax.dynamic_index_in_dim(leaf, index, 0, keepdims=False),
    tree,
  )


def _put(tree, index, values):
  return jax.tree.map(
    lambda leaf, value: jax.lax.dynamic_update_index_in_dim(
      leaf, value, index, 0
    ),
    tree,
    values,
  )


def _visit_tiles(shape, visit, *, by_row, by_column):
  """Calls visit(i, j, row i, column j) -> (row i, column j) on every tile.

  Columns are the outer loop: a column's values are reused while its rows are
  visited.
  """
  num_rows, num_columns = shape

  def visit_column(j, carry):
    by_row, by_column = carry

    def visit_row(i, carry):
      by_row, column = carry
      row, column = visit(i, j, _at(by_row, i), column)
      return _put(by_row, i, row), column

    by_row, column = jax.lax.fori_loop(
      0, num_rows, visit_row, (by_row, _at(by_column, j))
    )
    return by_row, _put(by_column, j, column)

  return jax.lax.fori_loop(0, num_columns, visit_column, (by_row, by_column))


def _tile_logits(plan, rows, columns, scalars):
  cosines = contrastive.similarity(rows.embedding, columns.embedding)
  logits = scalars.scale * cosines
  masks = contrastive.pair_masks(rows.pairs, columns.pairs, rules=plan.rules)
  if plan.objective == "sigmoid":
    logits = logits + scalars.bias
  return logits, masks


def forward_block(
  plan: TilePlan,
  rows: Items,
  columns: Items,
  *,
  row_state: Any,
  column_state: Any,
  scalars: Scalars,
) -> tuple[Any, Any]:
  """Adds a block to the states of its rows and columns, tile by tile."""
  num_rows, num_columns = len(rows.embedding), len(columns.embedding)
  size = plan.tile_size
  row_tiles, column_tiles = into_tiles((rows, columns), size)

  def visit(i, j, row_state, column_state):
    logits, masks = _tile_logits(
      plan, _at(row_tiles, i), _at(column_tiles, j), scalars
    )
    return states.update_states(
      plan.objective,
      logits,
      masks=masks,
      row_state=row_state,
      column_state=column_state,
    )

  row_state, column_state = _visit_tiles(
    (len(row_tiles.embedding), len(column_tiles.embedding)),
    visit,
    by_row=into_tiles(row_state, size),
    by_column=into_tiles(column_state, size),
  )
  return from_tiles(row_state, num_rows), from_tiles(column_state, num_columns)


def backward_block(
  plan: TilePlan,
  rows: Items,
  columns: Items,
  *,
  row_residual: Any,
  column_residual: Any,
  gradient: BlockGradient,
  scalars: Scalars,
) -> BlockGradient:
  """Adds a block's contribution to the gradient, recomputing each tile once."""
  num_rows, num_columns = len(rows.embedding), len(columns.embedding)
  size = plan.tile_size
  row_tiles, column_tiles = into_tiles(
    ((rows, row_residual), (columns, column_residual)), size
  )

  def visit(i, j, row_sum, column_sum):
    row, row_residual = _at(row_tiles, i)
    column, column_residual = _at(column_tiles, j)
    logits, masks = _tile_logits(plan, row, column, scalars)
    tile = states.tile_gradient(
      plan.objective,
      logits,
      masks=masks,
      row_residual=row_residual,
      column_residual=column_residual,
    )
    by_row, entries = row_sum
    by_row = by_row + _product(tile, column.embedding, 1)
    if entries is not None:
      entries = entries + jnp.sum(tile, axis=1)
    column_sum = column_sum + _product(tile, row.embedding, 0)
    return (by_row, entries), column_sum

  by_row, by_column = _visit_tiles(
    (len(row_tiles[0].embedding), len(column_tiles[0].embedding)),
    visit,
    by_row=into_tiles((gradient.rows, gradient.row_sums), size),
    by_column=into_tiles(gradient.columns, size),
  )
  by_row, row_sums = from_tiles(by_row, num_rows)
  return BlockGradient(by_row, from_tiles(by_column, num_columns), row_sums)


def _product(tile, embedding, axis):
  """Contracts an axis of the float32 tile with the items of an embedding."""
  return jax.lax.dot_general(
    tile,
    embedding.astype(jnp.float32),
    (((axis,), (0,)), ((), ())),
    precision=contrastive.dot_precision(embedding),
    preferred_element_type=jnp.float32,
  )
