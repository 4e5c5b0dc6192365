import logging
import random
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from clap_jax import config as config_lib
from clap_jax.training import checkpoint, manifest
from clap_jax.training import mesh as mesh_lib

NUM_DAMAGES = 100


def make_state(value, *, width=64):
  """A state with floats, integers and half precision."""
  x = np.random.default_rng(value).normal(size=(16, width))
  return {
    "params": {
      "tower": {"kernel": jnp.asarray(x, jnp.float32)},
      "scale": jnp.asarray(value, jnp.float32),
    },
    "opt_state": (
      {"mu": jnp.asarray(x, jnp.bfloat16)},
      jnp.asarray(value, jnp.int32),
    ),
    "ema": {"tower": {"kernel": jnp.asarray(x + 1, jnp.float32)}},
  }


def abstract(state, sharding=None):
  sharding = sharding or jax.sharding.SingleDeviceSharding(jax.devices()[0])
  return jax.tree.map(
    lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), state
  )


def save(directory, values, *, keep=2):
  checkpoints = checkpoint.Checkpoints(directory, keep=keep)
  for value in values:
    checkpoints.save(value, make_state(value), metadata={"seed": 5})
  checkpoints.close()


def restore(directory, target):
  checkpoints = checkpoint.Checkpoints(directory, keep=2)
  try:
    return checkpoints.restore(target)
  finally:
    checkpoints.close()


def assert_same(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  jax.tree.map(np.testing.assert_array_equal, a, b)


def test_round_trip_keeps_the_newest(tmp_path):
  save(tmp_path, [1, 2, 3])
  assert checkpoint.complete_steps(tmp_path) == [2, 3]
  restored = restore(tmp_path, abstract(make_state(0)))
  assert restored.step == 3
  assert restored.metadata == {"step": 3, "data_position": 3, "seed": 5}
  assert_same(restored.state, make_state(3))


def test_nothing_to_restore(tmp_path):
  assert restore(tmp_path, abstract(make_state(0))) is None
  with pytest.raises(FileNotFoundError, match="No complete checkpoint"):
    checkpoint.restore_params(tmp_path)


def test_nothing_is_cleaned_up_through_a_link(tmp_path):
  year = tmp_path / "photos" / "2024"
  year.mkdir(parents=True)
  (tmp_path / "checkpoints").symlink_to("photos")
  with pytest.raises(ValueError, match="symbolic link"):
    checkpoint.Checkpoints(tmp_path / "checkpoints", keep=2)
  assert year.is_dir()


def test_restore_with_another_sharding(tmp_path):
  save(tmp_path, [1])
  mesh = mesh_lib.make_mesh(config_lib.MeshConfig(data=4, fsdp=2))
  target = abstract(make_state(0), NamedSharding(mesh, PartitionSpec()))
  target["params"]["tower"]["kernel"] = jax.ShapeDtypeStruct(
    (16, 64),
    np.float32,
    sharding=NamedSharding(mesh, PartitionSpec(None, "fsdp")),
  )
  state = restore(tmp_path, target).state
  assert state["params"]["tower"]["kernel"].addressable_shards[
    0
  ].data.shape == (16, 32)
  assert_same(state, make_state(1))


def damage(directory, generator):
  """Harms one file of a checkpoint; returns what was done."""
  files = [p for p in sorted(directory.rglob("*")) if p.is_file()]
  path = generator.choice([p for p in files if p.stat().st_size])
  content = bytearray(path.read_bytes())
  kind = generator.choice(["flip", "truncate", "delete", "zero", "swap"])
  others = [p for p in files if p.read_bytes() != bytes(content)]
  if kind == "flip":
    content[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
    path.write_bytes(content)
  elif kind == "truncate":
    path.write_bytes(content[: generator.randrange(len(content))])
  elif kind == "delete":
    path.unlink()
  elif kind == "zero":
    path.write_bytes(bytes(len(content)))
  else:
    other = generator.choice(others)
    path.write_bytes(other.read_bytes())
    other.write_bytes(content)
  return kind, path.name


def test_every_damage_is_detected(tmp_path):
  save(tmp_path / "good", [1])
  generator = random.Random(0)
  for _ in range(NUM_DAMAGES):
    shutil.copytree(tmp_path / "good" / "1", tmp_path / "1")
    what = damage(tmp_path / "1", generator)
    if what == ("delete", manifest.MANIFEST_FILE):
      assert checkpoint.complete_steps(tmp_path) == []
    else:
      with pytest.raises(manifest.DamagedCheckpointError):
        manifest.verify(tmp_path / "1")
        pytest.fail(f"not detected: {what}")
    shutil.rmtree(tmp_path / "1")


def flip_a_weight(directory):
  path = max(
    (p for p in (directory / "params").rglob("*") if p.is_file()),
    key=lambda p: p.stat().st_size,
  )
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)


def test_falls_back_to_the_last_good_step(tmp_path, capsys):
  directory = tmp_path / "checkpoints"
  save(directory, [1, 2])
  flip_a_weight(directory / "2")
  params, metadata = checkpoint.restore_params(tmp_path)
  assert metadata["step"] == 1
  assert_same(params, jax.device_get(make_state(1)["params"]))
  assert (directory / "2").exists()  # reading for inference moves nothing
  capsys.readouterr()
  restored = restore(directory, abstract(make_state(0)))
  assert restored.step == 1
  assert_same(restored.state, make_state(1))
  assert "step 2 is damaged" in capsys.readouterr().err
  assert [p.name for p in (tmp_path / "checkpoints.damaged").iterdir()] == [
    "2-0"
  ]
  save(directory, [2])  # the way is free to write the step again
  assert checkpoint.complete_steps(directory) == [1, 2]


def test_all_damaged_is_an_error_and_not_a_fresh_start(tmp_path):
  save(tmp_path / "c", [1])
  flip_a_weight(tmp_path / "c" / "1")
  with pytest.raises(checkpoint.CheckpointError, match="step 1: "):
    restore(tmp_path / "c", abstract(make_state(0)))


def test_an_interrupted_save_counts_as_none(tmp_path):
  save(tmp_path, [1, 2])
  (tmp_path / "2" / manifest.MANIFEST_FILE).unlink()
  assert restore(tmp_path, abstract(make_state(0))).step == 1
  assert not (tmp_path / "2").exists()


def test_another_tree_is_refused_with_all_differences(tmp_path):
  save(tmp_path, [1])
  target = abstract(make_state(0, width=32))
  target["params"]["bias"] = target["params"].pop("scale")
  with pytest.raises(checkpoint.TreeMismatchError) as error:
    restore(tmp_path, target)
  message = str(error.value)
  assert "params/scale: in the checkpoint float32[], not expected" in message
  assert "params/bias: not in the checkpoint, expected float32[]" in message
  assert (
    "params/tower/kernel: float32[16, 64] saved, float32[16, 32] expected"
    in message
  )
  assert "opt_state/1" not in message
  assert (tmp_path / "1").exists()


def test_params_for_inference(tmp_path):
  save(tmp_path / "checkpoints", [1])
  params, _ = checkpoint.restore_params(tmp_path)
  assert isinstance(params["tower"]["kernel"], np.ndarray)
  assert_same(params, jax.device_get(make_state(1)["params"]))
  ema, _ = checkpoint.restore_params(tmp_path / "checkpoints", use_ema=True)
  assert_same(ema, jax.device_get(make_state(1)["ema"]))


def test_saving_does_not_see_a_later_donation(tmp_path):
  """The next step reuses the buffers while the save is under way."""
  step = jax.jit(lambda s: jax.tree.map(lambda a: a * 0, s), donate_argnums=0)
  checkpoints = checkpoint.Checkpoints(tmp_path, keep=1)
  state = {"params": {"x": jnp.arange(2**22, dtype=jnp.float32)}}
  checkpoints.save(1, state, metadata={})
  for _ in range(3):
    state = jax.block_until_ready(step(state))
  checkpoints.close()
  params, _ = checkpoint.restore_params(tmp_path)
  np.testing.assert_array_equal(params["x"], np.arange(2**22))


@pytest.mark.parametrize(
  ("message", "is_shown"),
  [("no metadata: /a/_CHECKPOINT_METADATA", False), ("another", True)],
)
def test_parts_that_are_read_alone_are_no_warning(message, is_shown):
  record = logging.makeLogRecord({"msg": message})
  assert bool(logging.getLogger("absl").filter(record)) == is_shown
