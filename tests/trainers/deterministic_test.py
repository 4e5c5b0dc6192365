"""`clap train` with loss.deterministic: one result on 1, 2, 4 and 8 devices."""

import jax
import pytest

from clap_jax.trainers import registry
from clap_jax.training import checkpoint
from configs import pretrain_sprites
from tests.configs import keys
from tests.faults import cluster
from tests.trainers import toy_runs

NUM_STEPS = 6


def command(directory, workdir, **changes):
  values = toy_runs.dataset_overrides(directory) | {
    "data.tokenizer": str(directory / "tokenizer.model"),
    "loss.deterministic": 8,
    "loop.steps": NUM_STEPS,
    "loop.log_every_steps": 1,
    "checkpoint.save_every_steps": 3,
  }
  return [
    "train",
    "--config=configs/pretrain_sprites.py:tiny,encoder=clap",
    f"--workdir={workdir}",
    *(f"--config.{key}={value}" for key, value in (values | changes).items()),
  ]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
  path = tmp_path_factory.mktemp("deterministic")
  toy_runs.pretrain(path)
  return path


def bits(workdir):
  params, _ = checkpoint.restore_params(workdir)
  return [leaf.tobytes() for leaf in jax.tree.leaves(params)]


@pytest.mark.slow
def test_the_same_bits_on_1_2_4_8_devices_in_2_processes_and_moved(
  directory, tmp_path, figure
):
  def run(name, **kwargs):
    arguments = command(directory, tmp_path / name)
    return cluster.run(arguments, **kwargs).check()

  run("1", num_devices=1)
  one, losses = bits(tmp_path / "1"), cluster.losses(tmp_path / "1")
  assert len(losses) == NUM_STEPS and len(set(losses.values())) == NUM_STEPS
  run("processes", num_devices=4, num_processes=2)
  run("moved", num_devices=8, faults="term@3")
  run("moved", num_devices=2)
  for num_devices in (2, 4, 8):
    run(str(num_devices), num_devices=num_devices)
  different = {
    name: sum(a != b for a, b in zip(bits(tmp_path / name), one, strict=True))
    for name in ("2", "4", "8", "processes", "moved")
  }
  figure(
    f"#10 #31 deterministic: arrays of {len(one)} that differ from those of "
    "1 device",
    different,
    "none",
  )
  assert not any(different.values())
  assert all(cluster.losses(tmp_path / name) == losses for name in different)


def test_settings_that_do_not_go_together():
  for changes, message in (
    ({"loss.deterministic": 6}, "power of two"),
    ({"loss.deterministic": 16}, "not a multiple of loss.deterministic"),
    ({"loss.deterministic": 8, "loss.num_microbatches": 2}, "of its own"),
  ):
    config = pretrain_sprites.get_config("tiny")
    keys.change(config, changes)
    with pytest.raises(ValueError, match=message):
      registry.resolve(config)
