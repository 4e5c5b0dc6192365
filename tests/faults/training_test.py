"""`clap train` that is killed, moved, poisoned and disturbed."""

import json
import os
import random
import re
import time

import jax
import numpy as np
import pytest

from clap_jax.training import checkpoint
from tests.faults import cluster

pytestmark = pytest.mark.faults
NUM_STEPS = 40
SAVE_PERCENT = 12.5  # every five steps


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
  changes = {"checkpoint.save_every_percent": SAVE_PERCENT}
  arguments = command(workdir, **changes)
  for number, step in enumerate(steps):
    kind = ("kill", "term")[number % 2]
    finished = cluster.run(arguments, faults=f"{kind}@{step}")
    assert finished.codes == [-9 if kind == "kill" else 0], finished.logs
  cluster.run(arguments).check()
  assert_same_bits(workdir, clean)
  figure(f"#1 #9 killed or stopped at {steps}", "every bit equal", "bitwise")


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
  figure("#10 loss over 8, 4, 2, 1, 8 devices", f"{worst:.1e}", "1e-6")
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
  figure("#13 one batch of NaN", "1 update skipped, run done", "1")


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
  figure(
    "#14 NaN from step 9 on", f"2 rollbacks, then stopped, {bad}", "recorded"
  )


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
  figure("#27 other TZ, locale, hash seed", "every bit equal", "identical")


def test_permission_lost_stops_at_the_next_save(
  command, clean, tmp_path, figure
):
  """A directory that cannot be written any more, as after a remount."""
  if os.getuid():
    pytest.skip("only root can give its rights away and take them back")
  workdir = tmp_path / "run"
  arguments = command(
    workdir, **{"checkpoint.save_every_percent": SAVE_PERCENT}
  )
  finished = cluster.run(arguments, faults="forbid@12")
  assert finished.codes == [3], finished.logs
  assert "Permission denied" in finished.logs[0]
  intact = checkpoint.complete_steps(workdir / "checkpoints")[-1]
  assert intact in (5, 10)  # that of step 10 may have been under way
  last = max(cluster.losses(workdir))
  cluster.run(arguments).check()
  assert_same_bits(workdir, clean)
  figure(
    "#5 writing forbidden at step 12, saves every 5 steps",
    f"stopped after step {last} with exit code 3 and the reason, step "
    f"{intact} intact, resumed to equal bits",
    "within 1 save, the old one intact",
  )
  assert last <= 20  # told at 15, noticed by the next save at the latest


def test_a_full_disk_stops_with_the_reason(command, clean, tmp_path, figure):
  """Its record is the first that finds no room."""
  workdir = tmp_path / "run"
  arguments = command(
    workdir, **{"checkpoint.save_every_percent": SAVE_PERCENT}
  )
  finished = cluster.run(arguments, faults="full@13,every@1=0.1")
  assert finished.codes == [3], finished.logs
  said = (
    rf"clap train: The .*{workdir}.* (cannot continue|could not be written)"
  )
  assert re.search(said, finished.logs[0])
  assert "File too large" in finished.logs[0]
  intact = checkpoint.complete_steps(workdir / "checkpoints")[-1]
  assert intact in (5, 10)  # that of step 10 may have been under way
  cluster.run(arguments).check()
  assert_same_bits(workdir, clean)
  figure(
    "#4 no room from step 13 on, saves every 5 steps",
    f"exit code 3 and the reason, step {intact} intact, resumed to equal bits",
    "a clear error, the old one intact",
  )


def test_out_of_memory_then_the_same_bits(command, clean, tmp_path, figure):
  """First refused memory, then killed as the kernel does."""
  workdir = tmp_path / "run"
  arguments = command(
    workdir, **{"checkpoint.save_every_percent": SAVE_PERCENT}
  )
  refused = cluster.run(arguments, faults="hoard@13")
  assert refused.codes[0] not in (0, 2), refused.logs
  killed = cluster.run(arguments, faults="kill@24")
  assert killed.codes == [-9]
  cluster.run(arguments).check()
  assert_same_bits(workdir, clean)
  figure(
    "#30 memory refused, then killed",
    f"exit codes {refused.codes[0]}, {killed.codes[0]}; resumed to equal bits",
    "bitwise",
  )


def test_a_reader_that_dies_stops_the_run(command, clean, tmp_path, figure):
  """Readers are threads: one that fails ends the run, which then goes on."""
  workdir = tmp_path / "run"
  arguments = command(
    workdir,
    **{"checkpoint.save_every_percent": SAVE_PERCENT, "data.num_threads": 3},
  )
  started = cluster.start(arguments, faults="worker@21,every@1=0.2")
  cluster.wait_for_step(workdir, 15, started)
  began_sec = time.monotonic()
  finished = cluster.finish(started)
  seconds = time.monotonic() - began_sec
  assert finished.codes == [3], finished.logs
  assert "a fault while reading for step 21" in finished.logs[0]
  last = max(cluster.losses(workdir))
  assert last < 21
  cluster.run(arguments).check()
  assert_same_bits(workdir, clean)
  figure(
    "#17 a data thread dies, reading for step 21",
    f"exit code 3 after step {last}, {seconds:.1f} s after step 15 (of 0.2 s "
    "each); resumed to equal bits",
    "10 s, order unchanged",
  )


def test_other_threads_and_processes_see_the_same_items(
  command, clean, tmp_path, figure
):
  workdir = tmp_path / "run"
  parts = ((10, 1, 0), (20, 2, 4), (30, 4, 1))
  for step, num_processes, num_threads in parts:
    cluster.run(
      command(workdir, **{"data.num_threads": num_threads}),
      num_processes=num_processes,
      faults=f"term@{step}",
    ).check()
  cluster.run(command(workdir, **{"data.num_threads": 2})).check()
  found, expected = cluster.losses(workdir), cluster.losses(clean)
  assert list(found) == list(expected)
  worst = max(abs(found[s] / expected[s] - 1) for s in expected)
  figure(
    "#11 #31 1 process, 2, 4 and 1, with 0, 4, 1 and 2 threads",
    f"every step once, losses within {worst:.1e}",
    "0 skipped, 0 repeated, 1e-6",
  )
  assert worst <= 1e-6


def test_nan_on_the_devices_of_one_process(command, clean, tmp_path, figure):
  workdir = tmp_path / "run"
  finished = cluster.run(command(workdir), num_processes=2, faults="nan@7/1")
  finished.check()
  assert "step 7: update skipped, loss nan" in finished.logs[0]
  found, expected = cluster.losses(workdir), cluster.losses(clean)
  assert all(
    found[step] == pytest.approx(expected[step], rel=1e-6)
    for step in range(1, 7)
  )
  assert [step for step in found if found[step] is None] == [7]
  assert found[8] == pytest.approx(expected[8], rel=0.5)
  figure("#13 NaN in one of 2 processes", "1 update skipped, run done", "1")


def test_another_model_is_refused_with_the_differences(
  command, tmp_path, figure
):
  workdir = tmp_path / "run"
  cluster.run(command(workdir), faults="term@4").check()
  other = cluster.run(command(workdir, **{"pyramid.width": 32}))
  assert other.codes == [2]
  assert "pyramid.width: was 16, now 32" in other.logs[0]
  kept = (workdir / "config.json").rename(tmp_path / "config.json")
  tree = cluster.run(command(workdir, **{"pyramid.width": 32}))
  assert tree.codes == [2]
  assert re.search(r"params/\S+: float32\[.*\] saved, float32\[", tree.logs[0])
  kept.rename(workdir / "config.json")
  whole = cluster.run(command(workdir)).check()
  assert "steps 5 to" in whole.logs[0]  # nothing was loaded or lost meanwhile
  figure(
    "#28 another width on one workdir, with and without config.json",
    "exit code 2, 2, every path with both shapes; goes on as it was",
    "refused",
  )


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
  figure("#29 second trainer on one workdir", "exit code 2", "refused")
