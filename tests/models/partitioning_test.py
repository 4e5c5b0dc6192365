"""Layouts of activations on eight simulated devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from clap_jax import config as config_lib
from clap_jax.models import layers, partitioning
from clap_jax.training import mesh as mesh_lib


def mesh_of(**sizes):
  return mesh_lib.make_mesh(config_lib.MeshConfig(**sizes))


def spec_of(shape, mesh, **axes):
  with jax.set_mesh(mesh):
    made = jax.jit(lambda x: partitioning.constrain(x, **axes))(jnp.ones(shape))
  return made.sharding.spec


@pytest.mark.parametrize(
  ("sizes", "shape", "axes", "spec"),
  [
    (
      {"data": 2, "fsdp": 2, "tensor": 2},
      (4, 3, 6),
      {"batch": 0, "hidden": -1},
      PartitionSpec(("data", "fsdp"), None, "tensor"),
    ),
    (
      {"data": 4, "fsdp": 1, "tensor": 2},
      (4, 2, 5),
      {"batch": 0, "heads": 1},
      PartitionSpec("data", "tensor"),
    ),
    # The single row that initialises a model.
    ({"data": 8}, (1, 3), {"batch": 0}, PartitionSpec()),
  ],
)
def test_names_decide_the_layout(sizes, shape, axes, spec):
  assert spec_of(shape, mesh_of(**sizes), **axes) == spec


def test_what_is_not_a_batch_must_divide():
  with pytest.raises(ValueError, match=r"3 heads cannot be split over tensor"):
    spec_of((8, 3), mesh_of(data=4, tensor=2), heads=1)


def test_without_a_mesh_and_under_shard_map_nothing_happens():
  x = np.ones((8, 2), np.float32)
  assert partitioning.constrain(x, batch=0, hidden=1) is x
  mesh = mesh_of()
  with jax.set_mesh(mesh):
    by_row = jax.shard_map(
      lambda x: partitioning.constrain(x, batch=0) + 1,
      in_specs=PartitionSpec("data"),
      out_specs=PartitionSpec("data"),
    )
    np.testing.assert_array_equal(by_row(x), x + 1)


def test_heads_that_do_not_divide_are_named():
  x = jnp.ones((8, 5, 12))
  attention = layers.Attention(num_heads=3)
  with (
    jax.set_mesh(mesh_of(data=4, tensor=2)),
    pytest.raises(ValueError, match="3 heads cannot be split"),
  ):
    jax.eval_shape(lambda: attention.init(jax.random.key(0), x, x))
