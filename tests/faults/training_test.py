"""`clap train` that is killed, moved, poisoned and disturbed."""

import json
import os
import random

import jax
import numpy as np
import pytest

from clap_jax.training import checkpoint
from tests.faults import cluster

pytestmark = pytest.mark.faults
NUM_STEPS = 40


def restored(workdir):
  return [
    checkpoint.restore_params(workdir, use_ema=use_ema)[0]
    for use_ema in (False, True)
  ]


def assert_same_bits(one, other):
  for a, b in zip(
    *map(jax.tree.leaves, (restored(one), restored(other))), strict=True
  ):
    assert a.tobytes() == b.tobytes()
  assert cluster.losses(one) == cluster.losses(other)
  results = [(path / "results.json").read_text() for path in (one, other)]
  assert results[0] == results[1]


@pytest.fixture(scope="module")
def command(toy):
  def build(workdir, **changes):
    changes = {"loop.steps": NUM_STEPS} | changes
    return cluster.arguments(toy, workdir, **changes)

  return build


@pytest.fixture(scope="module")
def clean(command, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("clean") / "run"
  cluster.run(command(workdir)).check()
  return workdir


def test_killed_and_stopped_at_random_then_the_same_bits(
  command, clean, tmp_path, figure
):
  generator = random.Random()
  steps = sorted(generator.sample(range(2, NUM_STEPS), 3))
  workdir = tmp_path / "run"
  changes = {"checkpoint.save_every_steps": 5}
  arguments = command(workdir, **changes)
  for number, step in enumerate(steps):
    kind = ("kill", "term")[number % 2]
    finished = cluster.run(arguments, faults=f"{kind}@{step}")
    assert finished.codes == [-9 if kind == "kill" else 0], finished.logs
  cluster.run(arguments).check()
  assert_same_bits(workdir, clean)
  figure(f"killed or stopped at {steps}", "every bit equal", "bitwise")


def test_on_eight_four_two_one_and_eight_devices(
  command, clean, tmp_path, figure
):
  workdir = tmp_path / "run"
  for step, num_devices in ((8, 8), (16, 4), (24, 2), (32, 1)):
    cluster.run(
      command(workdir), num_devices=num_devices, faults=f"term@{step}"
    ).check()
  cluster.run(command(workdir), num_devices=8).check()
  found, expected = cluster.losses(workdir), cluster.losses(clean)
  assert list(found) == list(expected)
  worst = max(abs(found[s] / expected[s] - 1) for s in expected)
  figure("loss over 8, 4, 2, 1, 8 devices", f"{worst:.1e}", "1e-6")
  assert worst <= 1e-6


def test_a_poisoned_batch_through_the_command(command, tmp_path, figure):
  workdir = tmp_path / "run"
  finished = cluster.run(command(workdir), faults="nan@7").check()
  assert "step 7: update skipped, loss nan" in finished.logs[0]
  lines = [
    json.loads(line)
    for line in (workdir / "metrics.jsonl").read_text().splitlines()
  ]
  skipped = [
    line["train/guard/skipped"]
    for line in lines
    if "train/guard/skipped" in line
  ]
  assert skipped == [0] * 6 + [1] * (NUM_STEPS - 6)
  assert all(np.isfinite(a).all() for a in jax.tree.leaves(restored(workdir)))
  figure("one batch of NaN", "1 update skipped, run done", "1")


def test_batch_after_batch_poisoned_stops_with_a_record(
  command, tmp_path, figure
):
  workdir = tmp_path / "run"
  faults = ",".join(f"nan@{step}" for step in range(9, NUM_STEPS + 1))
  finished = cluster.run(
    command(workdir, **{"loop.max_skipped_in_a_row": 5}), faults=faults
  )
  assert finished.codes == [3], finished.logs
  record = json.loads((workdir / "skipped_batches.json").read_text())
  bad = [number for entry in record for number in entry["bad_batches"]]
  assert bad == list(range(8, 23))
  figure("NaN from step 9 on", f"2 rollbacks, then stopped, {bad}", "recorded")


def test_clock_locale_and_hash_seed_change_nothing(
  command, clean, tmp_path, monkeypatch, figure
):
  for name, value in (
    ("TZ", "Pacific/Kiritimati"),
    ("LC_ALL", "C"),
    ("PYTHONHASHSEED", "12345"),
  ):
    monkeypatch.setitem(os.environ, name, value)
  workdir = tmp_path / "run"
  cluster.run(command(workdir)).check()
  assert_same_bits(workdir, clean)
  figure("other TZ, locale, hash seed", "every bit equal", "identical")


def test_a_second_trainer_is_refused(command, tmp_path, figure):
  workdir = tmp_path / "run"
  first = cluster.start(command(workdir), faults="every@1=0.5")
  cluster.wait_for_step(workdir, 2, first)
  second = cluster.run(command(workdir))
  assert second.codes == [2]
  assert "Another trainer" in second.logs[0]
  for process in first:
    process.terminate()
  cluster.finish(first).check()
  steps = list(cluster.losses(workdir))
  assert steps == list(range(1, len(steps) + 1))
  figure("second trainer on one workdir", "exit code 2", "refused")
