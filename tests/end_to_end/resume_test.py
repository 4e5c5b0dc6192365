"""`clap train`, killed and started again; and on one device and eight."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from clap_jax.training import checkpoint
from tests import conftest

NUM_STEPS = 24
KILL_AT_STEP = 13  # saved are 5 and 10
DEADLINE_SEC = 300


def command(demo, workdir, *overrides):
  values = {
    "data.data_dir": demo.data_dir,
    "data.tokenizer": demo.data_dir / "tokenizer.model",
    "start.workdir": demo.root / "models" / "seed0" / "start" / "pretrain",
    "loop.steps": NUM_STEPS,
    "loop.log_every_steps": 1,
    "checkpoint.save_every_steps": 5,
  }
  return [
    sys.executable,
    "-m",
    "clap_jax.main",
    "train",
    "--config=configs/pretrain_sprites.py:tiny",
    f"--workdir={workdir}",
    *(f"--config.{key}={value}" for key, value in values.items()),
    *overrides,
  ]


def start(demo, workdir, *, num_devices):
  flags = [
    f"--xla_force_host_platform_device_count={num_devices}",
    "--xla_backend_optimization_level=0",  # compiles three times as fast
  ]
  with open(f"{workdir}.log", "a", encoding="utf-8") as log:
    return subprocess.Popen(
      command(demo, workdir),
      cwd=conftest.REPOSITORY,
      env=os.environ | {"XLA_FLAGS": " ".join(flags)},
      stdout=log,
      stderr=log,
    )


def finish(process, workdir):
  code = process.wait(timeout=DEADLINE_SEC)
  assert code == 0, pathlib.Path(f"{workdir}.log").read_text()


def lines_of(workdir):
  """Complete lines of metrics.jsonl; a reader may come in the middle of one."""
  path = workdir / "metrics.jsonl"
  text = path.read_text() if path.is_file() else ""
  return [
    json.loads(line)
    for line in text.splitlines(keepends=True)
    if line.endswith("\n")
  ]


def losses(workdir):
  return {
    line["step"]: line["train/loss"]
    for line in lines_of(workdir)
    if "train/loss" in line
  }


def kill_at(process, workdir, step):
  """SIGKILL as soon as the record has the step."""
  deadline = time.monotonic() + DEADLINE_SEC
  while max(losses(workdir), default=0) < step:
    assert process.poll() is None, pathlib.Path(f"{workdir}.log").read_text()
    assert time.monotonic() < deadline
    time.sleep(0.005)
  process.send_signal(signal.SIGKILL)
  assert process.wait() == -signal.SIGKILL


@pytest.fixture(scope="module")
def whole(demo, tmp_path_factory):
  """The run that nothing disturbs, on one device."""
  workdir = tmp_path_factory.mktemp("resume") / "whole"
  finish(start(demo, workdir, num_devices=1), workdir)
  return workdir


def test_killed_and_started_again(demo, whole, tmp_path):
  workdir = tmp_path / "killed"
  kill_at(start(demo, workdir, num_devices=1), workdir, KILL_AT_STEP)
  before = losses(workdir)
  assert max(before) < NUM_STEPS
  assert not (workdir / "results.json").exists()
  finish(start(demo, workdir, num_devices=1), workdir)
  log = pathlib.Path(f"{workdir}.log").read_text()
  resumed = [f"steps {saved + 1} to {NUM_STEPS}" for saved in (5, 10, 15, 20)]
  assert any(text in log for text in resumed), log

  killed, metadata = checkpoint.restore_params(workdir)
  undisturbed, _ = checkpoint.restore_params(whole)
  assert metadata["step"] == NUM_STEPS
  assert jax.tree.structure(killed) == jax.tree.structure(undisturbed)
  for one, other in zip(
    jax.tree.leaves(killed), jax.tree.leaves(undisturbed), strict=True
  ):
    assert one.dtype == other.dtype
    assert one.tobytes() == other.tobytes()
  assert losses(workdir) == losses(whole)
  assert (workdir / "results.json").read_text() == (
    whole / "results.json"
  ).read_text()
  assert (workdir / "encoder.json").read_text() == (
    whole / "encoder.json"
  ).read_text()


def test_eight_devices_learn_what_one_does(demo, whole, tmp_path):
  workdir = tmp_path / "eight"
  finish(start(demo, workdir, num_devices=8), workdir)
  log = pathlib.Path(f"{workdir}.log").read_text()
  assert "on 8 device(s)" in log
  one, eight = losses(whole), losses(workdir)
  assert set(one) == set(eight) == set(range(1, NUM_STEPS + 1))
  np.testing.assert_allclose(
    [eight[step] for step in sorted(eight)],
    [one[step] for step in sorted(one)],
    rtol=1e-3,
  )
