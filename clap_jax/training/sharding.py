"""Where arrays live: shardings of parameters, moments and batches."""

import math
import re
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from clap_jax.training import mesh as mesh_lib
from clap_jax.training import paths

# (regex on the path, one mesh axis or None per axis of the array)
Rule = tuple[str, tuple[str | None, ...]]


class ReplicatedArray(NamedTuple):
  """An array of which every device holds the whole."""

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
  """A PartitionSpec per parameter.

  The first rule whose regex is found in the path decides. Without one, an array
  of at least `fsdp_min_size` elements is split over `fsdp` along its largest
  axis that divides (of equal ones the first); the rest is whole everywhere.

  Args:
    params: arrays or their shapes.
    mesh: from make_mesh.
    rules: see above; a rule must have one entry per axis of the array.
    fsdp_min_size: elements.

  Raises:
    ValueError: if a rule does not fit the array it matches or matches none.
  """
  unused = {pattern for pattern, _ in rules}

  def spec(key_path, leaf):
    name = paths.name_of(key_path)
    for pattern, axes in rules:
      if re.search(pattern, name):
        unused.discard(pattern)
        return _checked_spec(name, leaf.shape, pattern, axes, mesh)
    return _fsdp_spec(leaf.shape, mesh.shape["fsdp"], fsdp_min_size)

  specs = jax.tree_util.tree_map_with_path(spec, params)
  if unused:
    raise ValueError(
      f"Sharding rules {sorted(unused)} match no parameter; the parameters are "
      f"{', '.join(paths.flatten(params))}."
    )
  return specs


def state_shardings(state: Any, param_specs: Any, mesh: Any) -> Any:
  """Shardings of a whole TrainState from those of its parameters.

  A leaf whose path ends with the path of a parameter of the same shape (the
  parameter, its moments, its moving average) lies where the parameter lies; all
  others are replicated.

  Args:
    state: TrainState of arrays or shapes.
    param_specs: from `partition_specs`.
    mesh: the mesh.
  """
  is_spec = lambda x: isinstance(x, PartitionSpec)  # noqa: E731
  spec_leaves = jax.tree.leaves(param_specs, is_leaf=is_spec)
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
  """This process's rows of a batch as global arrays split over the mesh.

  Args:
    batch: a pytree of NumPy arrays (b / processes, ...).
    mesh: the mesh.

  Raises:
    ValueError: if the arrays differ in their first axis, have none, or the
      global batch cannot be split evenly.
  """
  sizes = {
    name: (np.shape(leaf) or (None,))[0]
    for name, leaf in paths.flatten(batch).items()
  }
  if len(set(sizes.values())) != 1 or None in sizes.values():
    raise ValueError(
      f"The arrays of a batch must agree in their first axis, got {sizes}."
    )
  global_size = next(iter(sizes.values())) * jax.process_count()
  mesh_lib.check_batch_size(global_size, mesh)
  sharding = batch_sharding(mesh)
  return jax.tree.map(
    lambda leaf: jax.make_array_from_process_local_data(
      sharding,
      np.asarray(leaf),
      global_shape=(global_size, *np.shape(leaf)[1:]),
    ),
    batch,
  )


def put_whole(array: Any, sharding: NamedSharding) -> jax.Array:
  """An array that every process has the whole of, as a global one."""
  array = np.asarray(array)
  return jax.make_array_from_callback(
    array.shape, sharding, lambda index: array[index]
  )


def largest_replicated(
  tree: Any, shardings: Any, *, count: int
) -> list[ReplicatedArray]:
  """The `count` largest arrays of which every device holds a whole copy."""
  flat, flat_shardings = paths.flatten(tree), jax.tree.leaves(shardings)
  whole = [
    ReplicatedArray(name, leaf.shape, leaf.size * leaf.dtype.itemsize)
    for (name, leaf), sharding in zip(flat.items(), flat_shardings, strict=True)
    if sharding.is_fully_replicated
  ]
  return sorted(whole, key=lambda array: -array.num_bytes)[:count]


def bytes_per_device(tree: Any) -> int:
  """Bytes of one device's shards of arrays, or of their shapes."""
  return sum(
    math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    for leaf in jax.tree.leaves(tree)
  )


def _fsdp_spec(shape, num_shards: int, min_size: int) -> PartitionSpec:
  dividing = [axis for axis, n in enumerate(shape) if n % num_shards == 0]
  if num_shards == 1 or not dividing or np.prod(shape) < min_size:
    return PartitionSpec()
  largest = max(dividing, key=lambda axis: shape[axis])
  return PartitionSpec(*[None] * largest, "fsdp")


def _checked_spec(name, shape, pattern, axes, mesh) -> PartitionSpec:
  if len(axes) != len(shape):
    raise ValueError(
      f"Sharding rule {pattern!r} has {len(axes)} entries, but {name} has "
      f"shape {shape}: give one entry per axis."
    )
  for axis, size in zip(axes, shape, strict=True):
    if axis is None:
      continue
    if axis not in mesh.shape:
      raise ValueError(
        f"Sharding rule {pattern!r} names {axis!r}; the mesh has "
        f"{', '.join(mesh.shape)}."
      )
    if size % mesh.shape[axis]:
      raise ValueError(
        f"Sharding rule {pattern!r} splits an axis of {size} of {name} "
        f"{shape} over {axis}={mesh.shape[axis]}, which does not divide it."
      )
  return PartitionSpec(*axes)
