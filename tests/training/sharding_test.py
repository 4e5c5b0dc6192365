import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from clap_jax import config as config_lib
from clap_jax.training import mesh as mesh_lib
from clap_jax.training import optimizer as optimizer_lib
from clap_jax.training import sharding
from clap_jax.training import state as state_lib
from tests.training import tiny_task

MESH_CONFIG = config_lib.MeshConfig(data=2, fsdp=2, tensor=2)


@pytest.fixture(scope="module")
def mesh():
  return mesh_lib.make_mesh(MESH_CONFIG)


@pytest.fixture(scope="module")
def state():
  """Shapes of the tiny task's state, with moments and a moving average."""
  task = tiny_task.TinyTask()
  params = jax.eval_shape(task.init, jax.random.key(0))
  config = config_lib.OptimizerConfig(
    learning_rate=0.1, groups=(("bias", 0.0),)
  )
  optimizer = optimizer_lib.make_optimizer(config, params, total_steps=4)
  return jax.eval_shape(
    lambda: state_lib.init_state(task, optimizer, seed=np.uint32(0), ema=True)
  )


def test_specs_of_parameters_and_moments(mesh, state):
  specs = sharding.partition_specs(
    state.params,
    mesh,
    rules=(("^head/", ("width", "heads")),),
    fsdp_min_size=64,
  )
  assert specs == {
    "tower": {"kernel": PartitionSpec(None, "fsdp"), "bias": PartitionSpec()},
    "head": {"kernel": PartitionSpec("fsdp", "tensor")},
  }
  shardings = sharding.state_shardings(state, specs, mesh)
  to_specs = lambda tree: jax.tree.map(lambda s: s.spec, tree)  # noqa: E731
  assert to_specs(shardings.params) == specs
  assert to_specs(shardings.ema) == specs
  adam = shardings.opt_state.inner_states["trained"].inner_state[1]
  for moments in (adam.mu, adam.nu):
    assert moments["tower"]["kernel"].spec == PartitionSpec(None, "fsdp")
    assert moments["head"]["kernel"].spec == PartitionSpec("fsdp", "tensor")
  assert adam.count.spec == shardings.step.spec == PartitionSpec()
  assert jax.tree.structure(shardings) == jax.tree.structure(state)


@pytest.mark.parametrize(
  ("shape", "spec"),
  [
    ((12, 64, 48), PartitionSpec(None, "fsdp")),  # the largest axis
    ((64, 64), PartitionSpec("fsdp")),  # of equal ones the first
    ((63, 32), PartitionSpec(None, "fsdp")),  # 63 does not divide
    ((63, 31), PartitionSpec()),  # none does
    ((4, 4), PartitionSpec()),  # too small
    ((), PartitionSpec()),
  ],
)
def test_default_rule(mesh, shape, spec):
  assert spec_of(mesh, shape, rules=(("never", ("heads",)),)) == spec


def spec_of(mesh, shape, *, rules):
  """Of an array `x` of that shape, beside one that `tensor` splits."""
  tree = {
    "split": jax.ShapeDtypeStruct((8,), np.float32),
    "x": jax.ShapeDtypeStruct(shape, np.float32),
  }
  return sharding.partition_specs(
    tree, mesh, rules=(("^split$", ("heads",)), *rules), fsdp_min_size=64
  )["x"]


@pytest.mark.parametrize(
  ("shape", "names", "spec"),
  [
    ((64, 48), ("width", "hidden"), PartitionSpec("fsdp", "tensor")),
    ((64, 48), ("hidden", "width"), PartitionSpec("tensor", "fsdp")),
    # The depth of a stack is the largest axis and yet whole.
    ((64, 4, 6), ("width", "heads"), PartitionSpec(None, "fsdp", "tensor")),
    ((4, 6), ("width", "heads"), PartitionSpec(None, "tensor")),  # too small
    ((64, 6), ("heads",), PartitionSpec(None, "tensor")),
  ],
)
def test_named_axes(mesh, shape, names, spec):
  assert spec_of(mesh, shape, rules=(("x", names),)) == spec


@pytest.mark.parametrize(
  ("rules", "message"),
  [
    ((("^head/", ("a", "b", "heads")),), "names 3 axes"),
    ((), "no product of this model is split"),
    ((("^head/", ("width", "width")),), "no product of this model is split"),
  ],
)
def test_rules_that_do_not_fit(mesh, state, rules, message):
  with pytest.raises(ValueError, match=message):
    sharding.partition_specs(state.params, mesh, rules=rules, fsdp_min_size=64)


def test_an_axis_that_does_not_divide(mesh):
  with pytest.raises(ValueError, match=r"divide its 7 heads: choose a divisor"):
    spec_of(mesh, (4, 7), rules=(("x", ("heads",)),))


def test_batch_is_split_over_data_and_fsdp(mesh):
  batch = {"x": np.arange(24, dtype=np.float32).reshape(8, 3)}
  placed = sharding.put_batch(batch, mesh)["x"]
  assert placed.sharding.spec == PartitionSpec(("data", "fsdp"))
  assert {s.data.shape for s in placed.addressable_shards} == {(2, 3)}
  np.testing.assert_array_equal(placed, batch["x"])
  with pytest.raises(ValueError, match="agree in their first axis"):
    sharding.put_batch(batch | {"y": np.zeros((4,))}, mesh)


def test_largest_replicated(mesh, state):
  specs = sharding.partition_specs(
    state.params, mesh, rules=(("tower/bias", ("heads",)),), fsdp_min_size=200
  )
  shardings = sharding.state_shardings(state, specs, mesh)
  (largest,) = sharding.largest_replicated(state, shardings, count=1)
  assert largest.shape == (32, 4)
  assert largest.num_bytes == 32 * 4 * 4


def test_mesh_sizes():
  mesh = mesh_lib.make_mesh(config_lib.MeshConfig(fsdp=2))
  assert dict(mesh.shape) == {"data": 4, "fsdp": 2, "tensor": 1}
  assert mesh_lib.num_batch_shards(mesh) == 8
  assert set(mesh.axis_types) == {jax.sharding.AxisType.Auto}
  mesh_lib.check_batch_size(16, mesh)
  with pytest.raises(ValueError, match="batch size 12"):
    mesh_lib.check_batch_size(12, mesh)
  with pytest.raises(ValueError, match="9 places for 8 devices"):
    mesh_lib.make_mesh(config_lib.MeshConfig(data=3, fsdp=3))
