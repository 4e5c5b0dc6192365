"""The pre-training step on meshes of eight devices is that of one device."""

import dataclasses

import jax
import numpy as np
import pytest

from clap_jax import config as config_lib
from clap_jax import types
from clap_jax.models import partitioning
from clap_jax.trainers import abstract, pretrain, registry
from clap_jax.training import mesh as mesh_lib
from clap_jax.training import paths
from clap_jax.training import plan as plan_lib
from clap_jax.training import sharding as sharding_lib
from configs import pretrain_sprites

STEPS = 3
# Of float32 sums in another order. Plain descent: Adam divides by the size of
# the gradient, and that of a key's bias is zero but for rounding.
LOSS_TOLERANCE, PARAMETER_TOLERANCE = 1e-5, 1e-5
MESHES = {
  "tensor": config_lib.MeshConfig(data=4, tensor=2),
  "all": config_lib.MeshConfig(data=2, fsdp=2, tensor=2, fsdp_min_size=64),
  "fsdp": config_lib.MeshConfig(data=1, fsdp=8, fsdp_min_size=64),
}


def make_run():
  config = pretrain_sprites.get_config("tiny")
  config.model.text_size = config.model.video_size = "micro"
  with config.unlocked():
    config.optimizer.update({"name": "sgd", "learning_rate": 0.1})
  config = registry.resolve(config)
  facts = abstract.DataFacts(vocab_size=64, num_classes=5)
  return config, pretrain.abstract_run(config, facts)


def random_batch(shapes: types.ClipBatch, *, seed: int) -> types.ClipBatch:
  rng = np.random.default_rng(seed)
  size, length = shapes.tokens.shape
  ids = np.arange(size, dtype=np.int32)
  start = rng.uniform(0, 30, size).astype(np.float32)
  action = ids % 2 == 0
  return types.ClipBatch(
    frames=rng.integers(0, 256, shapes.frames.shape, np.uint8),
    tokens=rng.integers(0, 64, (size, length), np.int32),
    token_mask=np.arange(length) < rng.integers(2, length, (size, 1)),
    pairs=types.PairMetadata(
      text_id=ids,
      class_id=np.where(action, ids % 5, -1).astype(np.int32),
      video_id=ids // 2,
      clip_start_sec=start,
      clip_end_sec=start + 2,
      caption_start_sec=start,
      caption_end_sec=start + 1,
      is_action=action,
      has_text=np.ones(size, bool),
      generic_text=np.zeros(size, bool),
      valid=np.ones(size, bool),
      action_share=action.astype(np.float32),
    ),
  )


def planned(mesh):
  config, run = make_run()
  return run, plan_lib.plan_run(
    run.task,
    dataclasses.replace(
      config,
      loop=config_lib.LoopConfig(length=config_lib.Duration(STEPS, "steps")),
      mesh=config_lib.MeshConfig(fsdp_min_size=64),
    ),
    mesh=mesh,
    sharding_rules=partitioning.PARAMETER_AXES,
  )


def trained(mesh_config, devices=None):
  """Losses of each step and the parameters after the last."""
  mesh = mesh_lib.make_mesh(mesh_config, devices=devices)
  with jax.set_mesh(mesh):
    run, plan = planned(mesh)
    state = plan.make(np.uint32(0))
    losses = []
    for step in range(STEPS):
      batch = sharding_lib.put_batch(random_batch(run.batch, seed=step), mesh)
      state, metrics = plan.step_function(state, batch)
      losses.append(float(metrics["loss"]))
  return losses, paths.flatten(jax.device_get(state.params)), state


@pytest.fixture(scope="module")
def on_one_device():
  return trained(config_lib.MeshConfig(), jax.devices()[:1])


@pytest.mark.parametrize(
  "name",
  [
    "all",
    pytest.param("tensor", marks=pytest.mark.slow),
    pytest.param("fsdp", marks=pytest.mark.slow),
  ],
)
def test_same_losses_and_parameters(on_one_device, name):
  losses, params, state = trained(MESHES[name])
  np.testing.assert_allclose(losses, on_one_device[0], rtol=LOSS_TOLERANCE)
  for path, value in on_one_device[1].items():
    np.testing.assert_allclose(
      params[path], value, atol=PARAMETER_TOLERANCE, err_msg=path
    )
  kernels = state.params["params"]["video_tower"]["blocks"]["layers"]
  if MESHES[name].tensor > 1:
    for kernel, axis in (
      (kernels["space"]["q"]["kernel"], -1),
      (kernels["time"]["out"]["kernel"], -2),
      (kernels["mlp"]["up"]["kernel"], -1),
      (kernels["mlp"]["down"]["kernel"], -2),
    ):
      shard = kernel.addressable_shards[0].data.shape
      assert shard[axis] == kernel.shape[axis] // 2


def test_announcement_counts_bytes_per_device_and_no_running_averages():
  config, _ = make_run()
  config = dataclasses.replace(
    config,
    model=dataclasses.replace(
      config.model, video_tower="r2plus1d_micro", motion_gain=0.0
    ),
  )
  run = pretrain.abstract_run(
    config, abstract.DataFacts(vocab_size=2**16, num_classes=5)
  )
  mesh = mesh_lib.make_mesh(config_lib.MeshConfig())
  with jax.set_mesh(mesh):
    plan = plan_lib.plan_run(run.task, config, mesh=mesh)
  text = plan.describe()
  learned = sum(
    leaf.size for leaf in jax.tree.leaves(plan.abstract.params["params"])
  )
  assert f"{learned:,} parameters on 8 device(s)" in text
  assert "text_tower/embedding [65536, 16], 4.0 MiB" in text
  # Parameters, their running averages, two moments, counters.
  total = sum(
    leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(plan.abstract)
  )
  assert f"{total / 2**20:.1f} MiB of state on each device" in text
