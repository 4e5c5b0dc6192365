"""Computes shardings of parameters, moments and batches."""

import math
import re
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from clap_jax import types
from clap_jax.training import mesh as mesh_lib
from clap_jax.training import paths

# (regex on the path, names of the last axes of the array)
Rule = tuple[str, tuple[str, ...]]


class ReplicatedArray(NamedTuple):
  """An array that every device holds as a whole."""

  path: str
  shape: tuple[int, ...]
  num_bytes: int


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
  return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: jax.sharding.Mesh) -> NamedSharding:
  """Splits the first axis over `data` and `fsdp`."""
  return NamedSharding(mesh, PartitionSpec(mesh_lib.BATCH_AXES))


def partition_specs(
  params: Any,
  mesh: jax.sharding.Mesh,
  *,
  rules: tuple[Rule, ...] = (),
  fsdp_min_size: int,
) -> Any:
  """Returns a PartitionSpec per parameter.

  The first rule whose regex is found in the path names the array's last axes;
  those listed in types.MESH_AXES are split accordingly. An array of at least
  `fsdp_min_size` elements is then split over `fsdp` along its largest axis that
  is left and divides (of equal ones the first). An axis before the named ones,
  which is the depth of a stack of layers, is never split.

  Args:
    params: arrays or their shapes.
    mesh: result of make_mesh.
    rules: see above.
    fsdp_min_size: elements.

  Raises:
    ValueError: if a rule does not fit the array it matches, or the mesh has a
      `tensor` axis and no parameter is split over it.
  """

  def spec(key_path, leaf):
    name = paths.name_of(key_path)
    for pattern, axes in rules:
      if re.search(pattern, name):
        taken = _named_axes(name, leaf.shape, pattern, axes, mesh)
        return _with_fsdp(taken, leaf.shape, mesh, fsdp_min_size, len(axes))
    whole = (None,) * len(leaf.shape)
    return _with_fsdp(whole, leaf.shape, mesh, fsdp_min_size, len(leaf.shape))

  specs = jax.tree_util.tree_map_with_path(spec, params)
  ways = mesh.shape["tensor"]
  if ways > 1 and not any("tensor" in s for s in _spec_leaves(specs)):
    raise ValueError(
      f"mesh.tensor is {ways}, but no product of this model is split over it: "
      "set it to 1 and use mesh.data or mesh.fsdp."
    )
  return specs


def state_shardings(state: Any, param_specs: Any, mesh: Any) -> Any:
  """Derives shardings of a TrainState from those of its parameters.

  A leaf whose path ends with the path of a parameter of the same shape (the
  parameter, its moments, its moving average) is sharded like the parameter; all
  others are replicated.

  Args:
    state: TrainState of arrays or shapes.
    param_specs: result of `partition_specs`.
  """
  spec_leaves = _spec_leaves(param_specs)
  flat_params = paths.flatten(state.params)
  known = {
    name: (leaf.shape, spec)
    for (name, leaf), spec in zip(flat_params.items(), spec_leaves, strict=True)
  }

  def sharding(key_path, leaf):
    for start in range(len(key_path)):
      shape, spec = known.get(
        paths.name_of(key_path[start:]), (None, PartitionSpec())
      )
      if shape == leaf.shape:
        return NamedSharding(mesh, spec)
    return replicated(mesh)

  return jax.tree_util.tree_map_with_path(sharding, state)


def put_batch(batch: Any, mesh: jax.sharding.Mesh) -> Any:
  """Makes global arrays, split over the mesh, from this process's rows.

  Args:
    batch: a pytree of NumPy arrays (rows, ...), the rows those of
      mesh.batch_rows.

  Raises:
    ValueError: the arrays differ in their first axis, have none, or do not hold
      equally many rows of each shard.
  """
  leaves = paths.flatten(batch)
  sizes = {name: np.shape(leaf)[:1] for name, leaf in leaves.items()}
  if len(set(sizes.values())) != 1 or () in sizes.values():
    raise ValueError(
      f"The arrays of a batch must agree in their first axis, got {sizes}."
    )
  shards = mesh_lib.batch_shards(mesh)
  (num_rows,) = next(iter(sizes.values()))
  size, rest = divmod(num_rows, len(shards))
  if rest or not size:
    raise ValueError(
      f"This process has {num_rows} rows for {len(shards)} batch shards of "
      f"the mesh {dict(mesh.shape)}: change the batch size or the mesh."
    )
  sharding = batch_sharding(mesh)

  def place(leaf):
    leaf = np.asarray(leaf)

    def rows_of(index):  # one shard: the start is None for the only one
      place = shards.index((index[0].start or 0) // size)
      return leaf[place * size : (place + 1) * size]

    shape = (size * mesh_lib.num_batch_shards(mesh), *leaf.shape[1:])
    return jax.make_array_from_callback(shape, sharding, rows_of)

  return jax.tree.map(place, batch)


def put_whole(array: Any, sharding: NamedSharding) -> jax.Array:
  """Makes a global array from one that every process has whole."""
  array = np.asarray(array)
  return jax.make_array_from_callback(
    array.shape, sharding, lambda index: array[index]
  )


def largest_replicated(
  tree: Any, shardings: Any, *, count: int
) -> list[ReplicatedArray]:
  """Returns the `count` largest replicated arrays."""
  flat, flat_shardings = paths.flatten(tree), jax.tree.leaves(shardings)
  whole = [
    ReplicatedArray(name, leaf.shape, leaf.size * leaf.dtype.itemsize)
    for (name, leaf), sharding in zip(flat.items(), flat_shardings, strict=True)
    if sharding.is_fully_replicated
  ]
  return sorted(whole, key=lambda array: -array.num_bytes)[:count]


def bytes_per_device(tree: Any) -> int:
  """Returns the bytes of one device's shards of arrays or shapes."""
  return sum(
    math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    for leaf in jax.tree.leaves(tree)
  )


def _spec_leaves(specs: Any) -> list[PartitionSpec]:
  return jax.tree.leaves(specs, is_leaf=lambda x: isinstance(x, PartitionSpec))


def _named_axes(name, shape, pattern, axes, mesh) -> tuple[str | None, ...]:
  """Returns a mesh axis or None per axis of an array that a rule names."""
  if len(axes) > len(shape):
    raise ValueError(
      f"Sharding rule {pattern!r} names {len(axes)} axes, but {name} has shape "
      f"{shape}: name at most its last {len(shape)}."
    )
  taken: list[str | None] = [None] * len(shape)
  for axis, logical in enumerate(axes, start=len(shape) - len(axes)):
    for mesh_axis in types.MESH_AXES.get(logical, ()):
      ways = mesh.shape[mesh_axis]
      if shape[axis] % ways:
        raise ValueError(
          f"{name} {shape} cannot be split over mesh.{mesh_axis}={ways}, which "
          f"does not divide its {shape[axis]} {logical}: choose a divisor."
        )
      taken[axis] = mesh_axis if ways > 1 else None
  return tuple(taken)


def _with_fsdp(taken, shape, mesh, min_size: int, num_named) -> PartitionSpec:
  """Adds `fsdp` to `taken` on the largest free one of the last axes."""
  ways = mesh.shape["fsdp"]
  free = [
    axis
    for axis in range(len(shape) - num_named, len(shape))
    if taken[axis] is None and shape[axis] % ways == 0
  ]
  axes = list(taken)
  if ways > 1 and free and math.prod(shape) >= min_size:
    axes[max(free, key=lambda axis: shape[axis])] = "fsdp"
  while axes and axes[-1] is None:
    axes.pop()
  return PartitionSpec(*axes)
