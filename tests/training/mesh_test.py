"""Meshes of TPU slices that are not here, and of other devices."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest

from clap_jax import config as config_lib
from clap_jax.training import mesh as mesh_lib
from clap_jax.training import sharding, topology


@dataclasses.dataclass(frozen=True)
class Chip:
  """What mesh building reads of a TPU device."""

  id: int
  process_index: int
  slice_index: int
  coords: tuple[int, int, int]
  platform: str = "tpu"
  device_kind: str = "TPU v5 lite"
  core_on_chip: int = 0


def slices_of(num_slices: int, sides: tuple[int, int]) -> list[Chip]:
  """Slices of v5e with hosts of 2 x 2 chips."""
  chips = []
  hosts_per_slice = sides[0] * sides[1] // 4
  for index in range(num_slices):
    for y, x in itertools.product(range(sides[1]), range(sides[0])):
      host = (y // 2) * (sides[0] // 2) + x // 2
      chips.append(
        Chip(
          id=len(chips),
          process_index=index * hosts_per_slice + host,
          slice_index=index,
          coords=(x, y, 0),
        )
      )
  return chips


def mesh_of(devices, **sizes) -> jax.sharding.Mesh:
  return mesh_lib.make_mesh(config_lib.MeshConfig(**sizes), devices=devices)


def slice_indices(mesh) -> np.ndarray:
  return np.vectorize(lambda d: getattr(d, "slice_index", 0))(mesh.devices)


@pytest.mark.parametrize("fsdp", [1, 4, 16])
@pytest.mark.parametrize("tensor", [1, 2, 4])
def test_only_data_crosses_slices(fsdp, tensor):
  devices = slices_of(2, (8, 8))
  mesh = mesh_of(devices[::-1], fsdp=fsdp, tensor=tensor)
  assert mesh.shape["data"] == 128 // fsdp // tensor
  assert set(mesh.devices.flat) == set(devices)
  indices = slice_indices(mesh)
  assert (indices == indices[:, :1, :1]).all()
  # Slice by slice, so that a row of the batch does not depend on the torus.
  assert (np.diff(indices[:, 0, 0]) >= 0).all()


def test_axes_that_do_not_fit_a_slice_are_refused():
  devices = slices_of(2, (4, 4))
  with pytest.raises(ValueError, match=r"mesh\.data must be a multiple"):
    mesh_of(devices, data=1, fsdp=32)
  with pytest.raises(ValueError, match=r"equal slices"):
    mesh_of([*devices[:-1], dataclasses.replace(devices[-1], slice_index=0)])


@pytest.mark.parametrize("sizes", [{}, {"tensor": 4}, {"fsdp": 4, "tensor": 2}])
def test_processes_load_the_rows_of_their_shards(sizes):
  devices = slices_of(2, (4, 4))
  mesh = mesh_of(devices, **sizes)
  num_shards = mesh_lib.num_batch_shards(mesh)
  batch_size = 2 * num_shards
  owned = {}
  for process in range(8):
    rows = mesh_lib.batch_rows(mesh, batch_size, process_index=process)
    assert rows == sorted(rows)
    for shard in mesh_lib.batch_shards(mesh, process_index=process):
      owned.setdefault(shard, set()).add(process)
  assert sorted(owned) == list(range(num_shards))
  for shard, at in enumerate(mesh.devices.reshape(num_shards, -1)):
    assert owned[shard] == {device.process_index for device in at}


def test_other_devices_keep_the_order_of_their_processes():
  devices = [
    Chip(id=i, process_index=i // 2, slice_index=i // 4, coords=(), platform=p)
    for i, p in enumerate(["gpu"] * 8)
  ]
  mesh = mesh_of(devices[::-1], fsdp=2, tensor=2)
  ids = np.vectorize(lambda device: device.id)(mesh.devices)
  np.testing.assert_array_equal(ids, np.arange(8).reshape(2, 2, 2))


def test_a_batch_is_placed_by_shard():
  mesh = mesh_of(jax.devices(), data=2, fsdp=2, tensor=2)
  batch = np.arange(24).reshape(12, 2)
  placed = sharding.put_batch({"x": batch}, mesh)["x"]
  np.testing.assert_array_equal(placed, batch)
  assert {shard.data.shape for shard in placed.addressable_shards} == {(3, 2)}
  with pytest.raises(ValueError, match="10 rows for 4 batch shards"):
    sharding.put_batch({"x": batch[:10]}, mesh)


@pytest.mark.skipif(
  topology.library_path() is None,
  reason="no TPU compiler: pip install -e .[tpu-compile]",
)
@pytest.mark.parametrize(
  "name",
  [
    *("2xv5e:4x4", "2xv5p:2x2x2", "v5p:4x4x4", "v6e:16x16", "v5e:16x16"),
    *("tpu7x:4x4x4", "2xtpu7x:2x2x2"),
  ],
)
def test_meshes_of_the_compilers_topologies(name):
  devices = topology.describe(name).devices
  num_slices = topology.parse_name(name).num_slices
  for fsdp, tensor in itertools.product((1, 4, 16), (1, 2, 4)):
    sizes = {"fsdp": fsdp, "tensor": tensor}
    if len(devices) // num_slices < fsdp * tensor:
      with pytest.raises(ValueError, match="mesh"):
        mesh_of(devices, **sizes)
      continue
    mesh = mesh_of(devices, **sizes)
    assert len(set(mesh.devices.flat)) == len(devices)
    indices = slice_indices(mesh)
    assert (indices == indices[:, :1, :1]).all()
