import json
import random
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

from clap_jax import config as config_lib
from clap_jax.training import checkpoint, hooks, preemption, writer
from clap_jax.training import fit as fit_lib
from clap_jax.training import workdir as workdir_lib
from tests import conftest
from tests.training import tiny_run, tiny_task


def assert_same_bits(a, b):
  jax.tree.map(
    lambda x, y: np.testing.assert_array_equal(
      np.asarray(x).view(np.uint32), np.asarray(y).view(np.uint32)
    ),
    a,
    b,
  )


def no_batches(start_step):
  raise AssertionError(f"batches asked for from step {start_step}")


def test_sigterm_saves_at_that_step_and_the_rest_is_bit_exact(tmp_path):
  whole = tiny_run.run(tmp_path / "whole", num_steps=4, save_every=4)
  batches_from = tiny_run.signalling_batches(2, signal.SIGTERM)
  with pytest.raises(preemption.Preempted) as stopped:
    tiny_run.run(
      tmp_path / "parts", num_steps=4, save_every=4, batches_from=batches_from
    )
  assert stopped.value.step == 2
  assert stopped.value.code == 0
  parts = tiny_run.run(tmp_path / "parts", num_steps=4, save_every=4)
  assert int(parts.step) == 4
  assert_same_bits(whole, parts)
  losses = [
    [line["train/loss"] for line in writer.read_metrics(tmp_path / name)]
    for name in ("whole", "parts")
  ]
  assert losses[0] == losses[1]
  assert len(losses[0]) == 4


def test_sigkill_anywhere_then_the_same_command(tmp_path):
  num_steps = 9
  generator = random.Random()
  kills = sorted(generator.sample(range(2, num_steps + 1), 2))
  command = [sys.executable, "-m", "tests.training.tiny_run"]
  command += [str(tmp_path / "killed"), f"--steps={num_steps}"]

  def start(*extra):
    return subprocess.run(
      [*command, *extra],
      cwd=conftest.REPOSITORY,
      timeout=120,
      capture_output=True,
      text=True,
      check=False,
    )

  for kill_at in kills:
    result = start(f"--kill-at={kill_at}")
    assert result.returncode == -signal.SIGKILL, (kills, result.stderr)
  result = start()
  assert result.returncode == 0, (kills, result.stderr)
  tiny_run.run(
    tmp_path / "whole",
    num_steps=num_steps,
    evaluate=lambda params, step: {
      "eval/weight": float(np.sum(params["head"]["kernel"]))
    },
  )
  for use_ema in (False, True):
    killed, metadata = checkpoint.restore_params(
      tmp_path / "killed", use_ema=use_ema
    )
    whole, _ = checkpoint.restore_params(tmp_path / "whole", use_ema=use_ema)
    assert metadata["step"] == num_steps
    assert_same_bits(killed, whole)

  def record(name):
    return [
      {k: v for k, v in line.items() if not k.startswith("perf/")}
      for line in writer.read_metrics(tmp_path / name)
    ]

  assert record("killed") == record("whole"), kills


def test_five_steps_on_one_device_and_on_eight(tmp_path):
  meshes = {
    "one": (config_lib.MeshConfig(), jax.devices()[:1]),
    "eight": (config_lib.MeshConfig(), None),
    "fsdp": (config_lib.MeshConfig(fsdp=4, fsdp_min_size=1), None),
  }
  states = {
    name: tiny_run.run(tmp_path / name, num_steps=5, mesh=mesh, devices=devices)
    for name, (mesh, devices) in meshes.items()
  }
  for name in ("eight", "fsdp"):
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6),
      jax.device_get(states["one"].params),
      jax.device_get(states[name].params),
    )


def test_resume_on_another_mesh(tmp_path):
  with pytest.raises(preemption.Preempted):
    tiny_run.run(
      tmp_path,
      num_steps=6,
      mesh=config_lib.MeshConfig(fsdp=4, fsdp_min_size=1),
      batches_from=tiny_run.signalling_batches(3, signal.SIGTERM),
    )
  seen = []
  state = tiny_run.run(
    tmp_path,
    num_steps=6,
    mesh=config_lib.MeshConfig(data=2, fsdp=2, tensor=2, fsdp_min_size=1),
    sharding_rules=(("^tower/", ("hidden",)),),
    batches_from=lambda step: seen.append(step) or tiny_task.batches_from(step),
  )
  assert seen == [3]
  assert int(state.step) == 6


def test_a_finished_run_returns_at_once(tmp_path):
  first = tiny_run.run(tmp_path, num_steps=2)
  second = tiny_run.run(tmp_path, num_steps=2, batches_from=no_batches)
  assert_same_bits(first, second)


def test_no_steps_keep_the_initial_parameters(tmp_path):
  state = tiny_run.run(tmp_path, num_steps=0, batches_from=no_batches)
  params, metadata = checkpoint.restore_params(tmp_path)
  assert metadata["step"] == 0
  assert_same_bits(state.params, params)
  again = tiny_run.run(tmp_path, num_steps=0, batches_from=no_batches)
  assert_same_bits(again.params, params)


def test_a_second_trainer_is_refused(tmp_path):
  with (
    workdir_lib.locked(tmp_path),
    pytest.raises(workdir_lib.WorkdirBusyError, match="Another trainer"),
  ):
    tiny_run.run(tmp_path, num_steps=2, batches_from=no_batches)
  tiny_run.run(tmp_path, num_steps=1)


def test_another_config_is_refused_with_the_keys(tmp_path):
  before = {"loop": {"steps": 1, "log_every_steps": 1}, "rate": 0.1}
  workdir_lib.write_config(tmp_path, before)
  changeable = {"loop": {"steps": 1, "log_every_steps": 9}, "rate": 0.1}
  workdir_lib.write_config(tmp_path, changeable)
  other = {"loop": {"steps": 2, "log_every_steps": 1}, "rate": 0.2}
  with pytest.raises(ValueError, match="another config") as error:
    workdir_lib.write_config(tmp_path, other)
  assert "loop.steps: was 1, now 2" in str(error.value)
  assert "rate: was 0.1, now 0.2" in str(error.value)
  assert "log_every" not in str(error.value)


def test_a_config_written_before_there_was_a_key_is_the_same(tmp_path):
  now = config_lib.LoopConfig(length=config_lib.Duration(4, "steps"))
  values = config_lib.as_dict(now)
  del values["max_rollbacks"]  # of which the default stands in the code
  (tmp_path / "config.json").write_text(json.dumps(values))
  workdir_lib.write_config(tmp_path, now)
  assert json.loads((tmp_path / "config.json").read_text()) == (
    config_lib.as_dict(now)
  )
  (tmp_path / "config.json").write_text(json.dumps(values | {"seed": 5}))
  with pytest.raises(ValueError, match="seed: was 5, now 0"):
    workdir_lib.write_config(tmp_path, now)


def test_evaluation_runs_when_due_and_at_the_end(tmp_path):
  seen = []

  def evaluate(params, step):
    del params
    seen.append(step)
    return {"eval/x": 1.0}

  loop = config_lib.LoopConfig(
    length=tiny_run.steps(5), eval_every=tiny_run.steps(2)
  )
  tiny_run.run(tmp_path, num_steps=5, loop=loop, evaluate=evaluate)
  assert seen == [2, 4, 5]
  lines = writer.read_metrics(tmp_path)
  assert [line["step"] for line in lines if "eval/x" in line] == [2, 4, 5]


@pytest.mark.parametrize("fails_at", [2, 5])
def test_an_evaluation_that_fails_costs_no_step(tmp_path, fails_at):
  """The same command then goes on with that evaluation."""
  loop = config_lib.LoopConfig(
    length=tiny_run.steps(5),
    log_every=tiny_run.steps(1),
    eval_every=tiny_run.steps(2),
  )
  seen = []

  def evaluate(params, step):
    seen.append(step)
    if seen == [*range(2, fails_at, 2), fails_at]:
      raise ValueError("a damaged video")
    return {"eval/weight": float(np.sum(params["head"]["kernel"]))}

  def run(name, **changes):
    arguments = {"num_steps": 5, "loop": loop, "evaluate": evaluate}
    return tiny_run.run(tmp_path / name, **(arguments | changes))

  with pytest.raises(ValueError, match="a damaged video"):
    run("failed")
  _, metadata = checkpoint.restore_params(tmp_path / "failed")
  assert metadata["step"] == fails_at
  started = []
  state = run(
    "failed",
    batches_from=lambda s: started.append(s) or tiny_task.batches_from(s),
  )
  assert started == ([] if fails_at == 5 else [fails_at])
  assert seen == sorted([2, 4, 5, fails_at])
  run("failed", batches_from=no_batches, evaluate=no_batches)
  assert_same_bits(state, run("whole"))
  records = [
    [
      {k: v for k, v in line.items() if not k.startswith("perf/")}
      for line in writer.read_metrics(tmp_path / name)
    ]
    for name in ("failed", "whole")
  ]
  assert records[0] == records[1]


def test_batches_that_end_and_batches_that_do_not_divide(tmp_path):
  def short(step):
    return [next(tiny_task.batches_from(step))]

  with pytest.raises(ValueError, match="ended after step 1"):
    tiny_run.run(tmp_path / "a", num_steps=3, batches_from=short)

  def odd(step):
    yield jax.tree.map(lambda a: a[:6], next(tiny_task.batches_from(step)))

  with pytest.raises(ValueError, match="6 rows for 8 batch shards"):
    tiny_run.run(tmp_path / "b", num_steps=3, batches_from=odd)


def test_skipped_updates_in_a_row_stop_the_run(tmp_path):
  def poisoned(start_step):
    for batch in tiny_task.batches_from(start_step):
      yield batch | {"x": np.full_like(batch["x"], np.nan)}

  loop = config_lib.LoopConfig(
    length=tiny_run.steps(50), max_skipped_in_a_row=3, max_rollbacks=0
  )
  with pytest.raises(hooks.SkipLimitError, match="3 updates in a row"):
    tiny_run.run(tmp_path, num_steps=50, loop=loop, batches_from=poisoned)


def test_system_errors_fail_the_run_not_the_command(tmp_path):
  def batches_from(start_step):
    yield next(tiny_task.batches_from(start_step))
    raise PermissionError(13, "Permission denied", "/somewhere")

  with pytest.raises(
    fit_lib.RunFailedError, match=r"cannot continue: .*/somewhere"
  ):
    tiny_run.run(tmp_path, num_steps=4, batches_from=batches_from)
