"""A train step with bit-equal results on 1, 2, 4, ... devices.

The compiler compiles a program for two devices differently from the same
program for one, with different rounding. Here the batch is cut into a fixed
number of slices, whatever the number of devices, and all arithmetic runs in
programs for a single device, the same everywhere. Between devices bits are
copied, or added along one fixed binary tree.

The cost: a second forward pass of the encoder, the loss and the update of the
whole batch on every device, replicated parameters, and a compilation for each
device. Nothing is dispatched ahead of the host.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from clap_jax.training import mesh as mesh_lib
from clap_jax.training import optimizer as optimizer_lib
from clap_jax.training import sharding as sharding_lib
from clap_jax.training import step as step_lib
from clap_jax.types import Device

TrainState = step_lib.TrainState


class Sliced(NamedTuple):
  """A loss in two parts: per item, then over all items at once.

  Attributes:
    divide: function batch -> (items to encode, inputs of the objective).
    encode: function (params, items) -> embeddings, each of one item alone.
    objective: function (params, embeddings, rest) -> (loss, metrics), over the
      whole batch on one device; must not use the mesh.
    num_slices: number of slices of the batch, a power of two.
  """

  divide: Callable[[Any], tuple[Any, Any]]
  encode: Callable[[Any, Any], Any]
  objective: Callable[[Any, Any, Any], tuple[jax.Array, Mapping]]
  num_slices: int


class DeterministicStep:
  """A train step (state, batch) -> (state, metrics); see `make_train_step`."""

  def __init__(
    self,
    sliced: Sliced,
    optimizer: optimizer_lib.Optimizer,
    *,
    mesh: jax.sharding.Mesh,
    state_shardings: Any,
    ema_decay: float | None,
    outlier_deviations: float | None,
  ):
    """Creates the step without compiling it.

    Raises:
      ValueError: the mesh splits parameters, or its devices cannot share the
        slices evenly.
    """
    check(sliced.num_slices, mesh, state_shardings)
    self._sliced = sliced
    self._mesh = mesh
    self._whole = sharding_lib.replicated(mesh)
    self._rows = sharding_lib.batch_sharding(mesh)
    self._num_shards = mesh_lib.num_batch_shards(mesh)

    def encode(params, items):
      return sliced.encode(optimizer.stop_frozen(params), items)

    def objective(params, embeddings, rest):
      return sliced.objective(optimizer.stop_frozen(params), embeddings, rest)

    def pull_back(params, items, by_embedding):
      _, pull = jax.vjp(lambda params: encode(params, items), params)
      return pull(by_embedding)[0]

    def update(state, loss, metrics, direct, by_encoder):
      grads = jax.tree.map(jnp.add, direct, by_encoder)
      return step_lib.apply_gradient(
        state,
        loss,
        metrics,
        grads,
        optimizer=optimizer,
        ema_decay=ema_decay,
        outlier_deviations=outlier_deviations,
      )

    self._encode = jax.jit(encode)
    self._objective = jax.jit(
      jax.value_and_grad(objective, argnums=(0, 1), has_aux=True)
    )
    self._pull_back = jax.jit(pull_back)
    self._update = jax.jit(update)
    self._slice = jax.jit(_slice, static_argnames="size")
    self._join = jax.jit(lambda parts: jax.tree.map(_concatenated, *parts))
    self._add = jax.jit(lambda a, b: jax.tree.map(jnp.add, a, b))
    self._copies = jax.jit(lambda tree: tree, out_shardings=self._whole)
    self._sum_over_devices = jax.jit(
      jax.shard_map(
        self._butterfly,
        mesh=mesh,
        in_specs=self._rows.spec,
        out_specs=self._rows.spec,
        check_vma=False,
      )
    )

  def prepare(self, state: TrainState, batch: Any) -> None:
    """Compiles the programs of one device before processes synchronize."""
    size = jax.tree.leaves(batch)[0].shape[0]
    _, rest = self._sliced.divide(batch)
    for device, params in _per_device(state.params).items():
      with mesh_lib.alone(device):
        pieces = self._pieces(batch)[device]
        embeddings = self._join([self._encode(params, p) for p in pieces])
        whole = jax.tree.map(
          lambda leaf, device=device: jax.device_put(
            jnp.zeros((size, *leaf.shape[1:]), leaf.dtype), device
          ),
          (embeddings, _per_device(rest)[device]),
        )
        (loss, metrics), (direct, by) = self._objective(params, *whole)
        cotangent = self._slice(by, 0, size=size // self._sliced.num_slices)
        grads = self._pull_back(params, pieces[0], cotangent)
        own = _per_device(state)[device]
        jax.block_until_ready(self._update(own, loss, metrics, direct, grads))

  def __call__(self, state: TrainState, batch: Any):
    size = jax.tree.leaves(batch)[0].shape[0] // self._sliced.num_slices
    params = _per_device(state.params)
    pieces = self._pieces(batch)
    joined = {}
    for device, parts in pieces.items():
      with mesh_lib.alone(device):
        joined[device] = self._join(
          [self._encode(params[device], part) for part in parts]
        )
    embeddings = self._everywhere(self._global(joined, self._rows))
    rest = self._everywhere(self._sliced.divide(batch)[1])
    values, sums = {}, {}
    for device, parts in pieces.items():
      with mesh_lib.alone(device):
        (loss, metrics), (direct, by_embedding) = self._objective(
          params[device], embeddings[device], rest[device]
        )
        values[device] = (loss, metrics, direct)
        first = self._first_row(batch, device)
        sums[device] = self._tree_sum(
          [
            self._pull_back(
              params[device],
              part,
              self._slice(by_embedding, first + k * size, size=size),
            )
            for k, part in enumerate(parts)
          ]
        )
    sums = _per_device(self._sum_over_devices(self._global(sums, self._rows)))
    states = _per_device(state)
    results = {}
    for device, (loss, metrics, direct) in values.items():
      with mesh_lib.alone(device):
        by_encoder = jax.tree.map(lambda leaf: leaf[0], sums[device])
        results[device] = self._update(
          states[device], loss, metrics, direct, by_encoder
        )
    return jax.block_until_ready(self._global(results, self._whole))

  def _pieces(self, batch) -> dict[Device, list]:
    """Returns the slices of each local device, in the batch's order."""
    items, _ = self._sliced.divide(batch)
    size = jax.tree.leaves(items)[0].shape[0] // self._sliced.num_slices
    count = self._sliced.num_slices // self._num_shards
    pieces = {}
    for device, own in _per_device(items).items():
      with mesh_lib.alone(device):
        pieces[device] = [
          self._slice(own, k * size, size=size) for k in range(count)
        ]
    return pieces

  def _first_row(self, batch, device) -> int:
    leaf = jax.tree.leaves(batch)[0]
    (shard,) = (s for s in leaf.addressable_shards if s.device == device)
    return shard.index[0].start or 0

  def _tree_sum(self, grads: list) -> Any:
    """Sums arrays (1, ...) along a binary tree of neighbours."""
    # Addition of floats is not associative. The order is a tree over slices,
    # fixed by their number alone: a device sums the subtree of its slices, and
    # `_butterfly` the upper levels, whatever the number of devices.
    while len(grads) > 1:
      grads = [
        self._add(*pair) for pair in zip(grads[::2], grads[1::2], strict=True)
      ]
    return jax.tree.map(lambda leaf: leaf[None], grads[0])

  def _butterfly(self, tree):
    """Finishes the tree over devices; all get the same bits: a + b = b + a."""
    axes = mesh_lib.BATCH_AXES
    for level in range(self._num_shards.bit_length() - 1):
      pairs = [(i, i ^ (1 << level)) for i in range(self._num_shards)]
      tree = jax.tree.map(
        lambda leaf, pairs=pairs: leaf + jax.lax.ppermute(leaf, axes, pairs),
        tree,
      )
    return tree

  def _global(self, trees: Mapping[Device, Any], sharding: NamedSharding):
    """Assembles global arrays from arrays of single devices, per leaf."""

    def joined(*leaves):
      shape = leaves[0].shape
      if sharding is self._rows:
        shape = (shape[0] * self._num_shards, *shape[1:])
      return jax.make_array_from_single_device_arrays(
        shape, sharding, list(leaves)
      )

    return jax.tree.map(joined, *trees.values())

  def _everywhere(self, tree) -> dict[Device, Any]:
    """Gathers whole global arrays on each local device."""
    return _per_device(self._copies(tree))


def on_one_device(make: Callable, shardings: Any) -> Callable:
  """Runs `make` on one device; copies the result to its shardings.

  Otherwise the rounding of initial parameters would depend on the number of
  devices.
  """

  def made(*arguments):
    device = jax.local_devices()[0]
    with mesh_lib.alone(device):
      tree = jax.jit(make)(*arguments)
    return jax.tree.map(sharding_lib.put_whole, tree, shardings)

  return made


def check(
  num_slices: int, mesh: jax.sharding.Mesh, state_shardings: Any
) -> None:
  """Raises a ValueError for a mesh that cannot be deterministic."""
  num_shards = mesh_lib.num_batch_shards(mesh)
  powers = all(n & (n - 1) == 0 for n in (num_slices, num_shards))
  if not powers or num_slices % num_shards or mesh.size != num_shards:
    raise ValueError(
      f"A deterministic run of {num_slices} slices needs a power of two of "
      f"devices that divides it, and mesh.tensor 1: the mesh is "
      f"{dict(mesh.shape)}. Change loss.deterministic, which changes the last "
      "bits, or the mesh."
    )
  split = [
    leaf
    for leaf in jax.tree.leaves(state_shardings)
    if not leaf.is_fully_replicated
  ]
  if split:
    raise ValueError(
      f"A deterministic run replicates parameters, but {len(split)} arrays "
      "are split over mesh.fsdp: set mesh.fsdp to 1."
    )


def _per_device(tree: Any) -> dict[Device, Any]:
  """Returns the local shards of global arrays, device by device."""
  leaves, structure = jax.tree.flatten(tree)
  shards = [leaf.addressable_shards for leaf in leaves]
  return {
    group[0].device: jax.tree.unflatten(structure, [s.data for s in group])
    for group in zip(*shards, strict=True)
  }


def _slice(tree, start, *, size):
  return jax.tree.map(
    lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, start, size), tree
  )


def _concatenated(*leaves):
  return jnp.concatenate(leaves)
