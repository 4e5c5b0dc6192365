"""Predicts on a stream of batches, counting each row exactly once."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np

from clap_jax.training import mesh as mesh_lib
from clap_jax.training import paths, processes, sharding


class Predictor:
  """Runs `predict(params, batch)`, compiled once, over the mesh.

  A batch of any size up to `batch_size` is padded to it by repeating its last
  row; padding rows are removed from the outputs. Each of several processes
  takes the whole batch, computes its share of the rows and gets the outputs of
  all: every example counts once, whatever the number of processes.
  """

  def __init__(
    self,
    predict: Callable[[Any, Any], Any],
    *,
    mesh: jax.sharding.Mesh,
    batch_size: int,
  ):
    mesh_lib.check_batch_size(batch_size, mesh)
    self._predict = jax.jit(predict, out_shardings=sharding.replicated(mesh))
    self._compiled: dict[Any, Callable] = {}  # by the shapes of all
    self._mesh = mesh
    self._batch_size = batch_size

  def place(self, params: Any) -> Any:
    """Puts NumPy parameters on every device of the mesh; keeps others.

    Otherwise each call would transfer them again.
    """
    whole = sharding.replicated(self._mesh)
    return jax.tree.map(
      lambda leaf: (
        leaf if isinstance(leaf, jax.Array) else sharding.put_whole(leaf, whole)
      ),
      params,
    )

  def __call__(self, params: Any, batch: Any) -> Any:
    """Returns outputs (b, ...) as NumPy for a batch of b rows.

    Raises:
      ValueError: b exceeds `batch_size`, or an output has not b rows.
    """
    padded, valid_mask = pad_batch(batch, self._batch_size)
    with jax.set_mesh(self._mesh):
      shards = sharding.batch_sharding(self._mesh)
      batch_shards = jax.tree.map(
        lambda leaf: sharding.put_whole(leaf, shards), padded
      )
    outputs = self._outputs(params, batch_shards)
    num_valid = int(valid_mask.sum())
    return jax.tree.map(lambda leaf: leaf[:num_valid], outputs)

  @property
  def rows(self) -> list[int]:
    """Returns the rows of a batch that this process passes to `of_rows`."""
    return mesh_lib.batch_rows(self._mesh, self._batch_size)

  @property
  def share(self) -> tuple[int, int]:
    """Returns (index of this process's share of the rows, number of shares)."""
    shares = sorted(
      {
        tuple(
          mesh_lib.batch_rows(self._mesh, self._batch_size, process_index=index)
        )
        for index in range(processes.count())
      }
    )
    return shares.index(tuple(self.rows)), len(shares)

  def of_rows(self, params: Any, batch: Any) -> Any:
    """Returns outputs of all rows; each process passes its `rows`.

    Raises:
      ValueError: the batch has not `rows`, or an output has another number of
        rows.
    """
    with jax.set_mesh(self._mesh):
      batch_shards = sharding.put_batch(batch, self._mesh)
    return self._outputs(params, batch_shards)

  def _outputs(self, params: Any, batch_shards: Any) -> Any:
    with jax.set_mesh(self._mesh):
      outputs = self._compiled_for(params, batch_shards)(params, batch_shards)
    outputs = jax.device_get(outputs)
    for name, leaf in paths.flatten(outputs).items():
      if np.shape(leaf)[:1] != (self._batch_size,):
        raise ValueError(
          f"predict must return one row per row of the batch, but {name!r} has "
          f"shape {np.shape(leaf)} for {self._batch_size} rows."
        )
    return outputs

  def _compiled_for(self, params, batch) -> Callable:
    if processes.count() == 1:
      return self._predict
    leaves = jax.tree.leaves((params, batch))
    key = tuple((leaf.shape, leaf.sharding) for leaf in leaves)
    if key not in self._compiled:
      self._compiled[key] = processes.compiled_by_all(
        self._predict, params, batch
      )
    return self._compiled[key]


def of_config(predict: Callable[[Any, Any], Any], config: Any) -> Predictor:
  """Makes a Predictor with the mesh and batch size of a config."""
  return Predictor(
    predict,
    mesh=mesh_lib.make_mesh(config.mesh),
    batch_size=config.data.batch_size,
  )


def predict_batches(
  predictor: Predictor, params: Any, batches: Iterable[Any]
) -> Iterator[tuple[Any, Any]]:
  """Yields (batch, outputs) for each batch, both as NumPy."""
  params = predictor.place(params)
  for batch in batches:
    yield batch, predictor(params, batch)


def pad_batch(batch: Any, size: int) -> tuple[Any, np.ndarray]:
  """Repeats the last row up to `size` rows.

  Returns:
    (the padded batch, bool (size,) that is True for the rows given).

  Raises:
    ValueError: the batch is empty, larger, or of unequal first axes.
  """
  sizes = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(batch)}
  if len(sizes) != 1 or not all(sizes):
    raise ValueError(
      f"The arrays of a batch must agree in their first axis, got {sizes}."
    )
  ((num_rows,),) = sizes
  if not 1 <= num_rows <= size:
    raise ValueError(f"Expected a batch of 1 to {size} rows, got {num_rows}.")
  rows = np.minimum(np.arange(size), num_rows - 1)
  padded = jax.tree.map(lambda leaf: np.asarray(leaf)[rows], batch)
  return padded, np.arange(size) < num_rows
