"""The device mesh: axes `data`, `fsdp`, `tensor`."""

import math
from collections.abc import Sequence

import jax

from clap_jax import config as config_lib

AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")  # the axes that split a batch


def make_mesh(
  config: config_lib.MeshConfig,
  *,
  devices: Sequence[jax.Device] | None = None,
) -> jax.sharding.Mesh:
  """A mesh with automatic axes over `devices` (all of them by default).

  Raises:
    ValueError: if the axis sizes do not multiply to the number of devices.
  """
  devices = jax.devices() if devices is None else list(devices)
  sizes = mesh_sizes(config, len(devices))
  auto = (jax.sharding.AxisType.Auto,) * len(AXES)
  return jax.make_mesh(sizes, AXES, axis_types=auto, devices=devices)


def alone(device: jax.Device):
  """A context whose ambient mesh is one device: programs know no other."""
  config = config_lib.MeshConfig(data=1, fsdp=1, tensor=1)
  return jax.set_mesh(make_mesh(config, devices=[device]))


def mesh_sizes(
  config: config_lib.MeshConfig, num_devices: int
) -> tuple[int, int, int]:
  """Devices per axis, in the order of AXES.

  Raises:
    ValueError: if the axis sizes do not multiply to the number of devices.
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
  return tuple(sizes)


def num_batch_shards(mesh: jax.sharding.Mesh) -> int:
  """Into how many parts a batch is split."""
  return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def check_processes(mesh: jax.sharding.Mesh) -> None:
  """Raises a ValueError unless each process feeds rows of its own.

  Two processes with devices of one batch shard would each bring other rows for
  it, and nothing would say so.
  """
  owners = mesh.devices.reshape(num_batch_shards(mesh), -1)
  for shard, devices in enumerate(owners):
    found = {device.process_index for device in devices}
    if len(found) > 1:
      raise ValueError(
        f"Batch shard {shard} of the mesh {dict(mesh.shape)} lies on the "
        f"processes {sorted(found)}: make mesh.tensor a divisor of the number "
        "of devices of one process."
      )


def check_batch_size(global_batch_size: int, mesh: jax.sharding.Mesh) -> None:
  """Raises a ValueError if a batch cannot be split evenly over the mesh."""
  num_shards = num_batch_shards(mesh)
  if global_batch_size < 1 or global_batch_size % num_shards:
    raise ValueError(
      f"The global batch size {global_batch_size} is not a positive multiple "
      f"of {num_shards}, the number of batch shards of the mesh "
      f"{dict(mesh.shape)}: change the batch size or the mesh."
    )
