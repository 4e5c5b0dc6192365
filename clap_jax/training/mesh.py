"""Defines the device mesh with axes `data`, `fsdp`, `tensor`."""

import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils

from clap_jax import config as config_lib
from clap_jax.types import Device

AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")  # the axes that split a batch


def make_mesh(
  config: config_lib.MeshConfig,
  *,
  devices: Sequence[Device] | None = None,
) -> jax.sharding.Mesh:
  """Arranges devices in a mesh with automatic axes.

  Several TPU slices are laid along `data`, slice by slice: only the gradients
  of replicas cross the data-center network (DCN). Within a slice the axes
  follow the physical torus. Other devices are laid out in the order of their
  processes, `tensor` fastest, so that its groups share a host where they can.

  Args:
    config: number of devices per axis.
    devices: devices to use; by default all devices of all processes.

  Raises:
    ValueError: the axis sizes do not multiply to the number of devices, or
      `fsdp` and `tensor` do not fit into one slice.
  """
  devices = jax.devices() if devices is None else list(devices)
  sizes = mesh_sizes(config, len(devices))
  slices = _slices(devices)
  if len(slices) > 1:
    _check_slices(sizes, slices)
  # Slice after slice along `data`, the outermost axis: a block of consecutive
  # rows of the mesh is then one slice, and the axes that communicate within
  # every layer, fsdp and tensor, never leave it.
  parts = [
    _arranged((sizes[0] // len(slices), *sizes[1:]), part) for part in slices
  ]
  auto = (jax.sharding.AxisType.Auto,) * len(AXES)
  return jax.sharding.Mesh(np.concatenate(parts), AXES, axis_types=auto)


def _slices(devices: Sequence[Device]) -> list[list[Device]]:
  """Groups TPU devices by slice; other devices are one group."""
  groups: dict[int, list[Device]] = {}
  for device in devices:
    is_tpu = device.platform == "tpu"
    index = (getattr(device, "slice_index", 0) or 0) if is_tpu else 0
    groups.setdefault(index, []).append(device)
  return [groups[index] for index in sorted(groups)]


def _check_slices(sizes, slices) -> None:
  counts = {len(part) for part in slices}
  data, fsdp, tensor = sizes
  if len(counts) > 1:
    raise ValueError(
      f"The slices have {sorted(counts)} devices; expected equal slices."
    )
  if data % len(slices):
    raise ValueError(
      f"The mesh data={data}, fsdp={fsdp}, tensor={tensor} does not fit "
      f"{len(slices)} slices of {counts.pop()} devices: mesh.data must be a "
      "multiple of the number of slices, since mesh.fsdp and mesh.tensor do "
      "not cross slices. Make their product a divisor of the devices of one "
      "slice and leave mesh.data at -1."
    )


def _arranged(shape: tuple[int, ...], devices: list[Device]) -> np.ndarray:
  """Arranges the devices of one slice, or devices other than TPUs."""
  if devices[0].platform == "tpu":
    # An axis of the mesh may need a part of an axis of the torus, such as
    # tensor=2 on v6e:16x16.
    return mesh_utils.create_device_mesh(
      shape, devices=devices, allow_split_physical_axes=True
    )
  in_order = sorted(devices, key=lambda d: (d.process_index, d.id))
  return np.asarray(in_order, dtype=object).reshape(shape)


def alone(device: Device):
  """Returns a context whose ambient mesh is a single device."""
  config = config_lib.MeshConfig(data=1, fsdp=1, tensor=1)
  return jax.set_mesh(make_mesh(config, devices=[device]))


def mesh_sizes(
  config: config_lib.MeshConfig, num_devices: int
) -> tuple[int, int, int]:
  """Returns the number of devices per axis, in the order of AXES.

  Raises:
    ValueError: the axis sizes do not multiply to the number of devices.
  """
  sizes = [config.data, config.fsdp, config.tensor]
  if -1 in sizes:
    sizes[sizes.index(-1)] = max(num_devices // -math.prod(sizes), 1)
  if math.prod(sizes) != num_devices:
    named = ", ".join(f"{a}={s}" for a, s in zip(AXES, sizes, strict=True))
    raise ValueError(
      f"The mesh {named} has {math.prod(sizes)} places for {num_devices} "
      "devices: choose sizes with that product, or -1 for one axis."
    )
  data, fsdp, tensor = sizes
  return data, fsdp, tensor


def num_batch_shards(mesh: jax.sharding.Mesh) -> int:
  """Returns the number of shards of a batch."""
  return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def batch_shards(
  mesh: jax.sharding.Mesh, *, process_index: int | None = None
) -> list[int]:
  """Returns the batch shards that a process has a device of, in order.

  Shard k of n holds the rows [k * b / n, (k + 1) * b / n) of every global
  batch of b rows, whatever the mesh and the topology. Processes that share a
  shard, as when `tensor` spans hosts, each load its rows.

  Args:
    mesh: result of make_mesh.
    process_index: the process; by default this one.
  """
  process = jax.process_index() if process_index is None else process_index
  owners = mesh.devices.reshape(num_batch_shards(mesh), -1)
  return [
    shard
    for shard, devices in enumerate(owners)
    if any(device.process_index == process for device in devices)
  ]


def batch_rows(
  mesh: jax.sharding.Mesh,
  global_batch_size: int,
  *,
  process_index: int | None = None,
) -> list[int]:
  """Returns the rows of each global batch that a process loads, in order.

  Raises:
    ValueError: the batch cannot be split evenly over the mesh.
  """
  check_batch_size(global_batch_size, mesh)
  size = global_batch_size // num_batch_shards(mesh)
  return [
    shard * size + row
    for shard in batch_shards(mesh, process_index=process_index)
    for row in range(size)
  ]


def check_batch_size(global_batch_size: int, mesh: jax.sharding.Mesh) -> None:
  """Raises a ValueError if a batch cannot be split evenly over the mesh."""
  num_shards = num_batch_shards(mesh)
  if global_batch_size < 1 or global_batch_size % num_shards:
    raise ValueError(
      f"The global batch size {global_batch_size} is not a positive multiple "
      f"of {num_shards}, the number of batch shards of the mesh "
      f"{dict(mesh.shape)}: change the batch size or the mesh."
    )
