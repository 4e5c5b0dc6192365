"""`clap train` in several real processes: equal results, common ends."""

import json
import signal
import time

import jax
import numpy as np
import pytest

from clap_jax.training import checkpoint, writer
from tests.faults import cluster


def values(workdir):
  rows = json.loads((workdir / "results.json").read_text())["rows"]
  return {row["metric"]: row["value"] for row in rows}


@pytest.fixture(scope="module")
def one(toy, tmp_path_factory):
  """The run of one process that nothing disturbs."""
  workdir = tmp_path_factory.mktemp("one") / "run"
  cluster.run(cluster.arguments(toy, workdir)).check()
  return workdir


def assert_like(workdir, one):
  found, expected = cluster.losses(workdir), cluster.losses(one)
  assert list(found) == list(expected)
  worst = max(abs(found[s] / expected[s] - 1) for s in expected)
  assert worst <= 1e-6
  assert values(workdir) == pytest.approx(values(one), abs=1e-6)
  return worst


@pytest.mark.parametrize(
  "num_processes", [2, pytest.param(4, marks=pytest.mark.faults)]
)
def test_one_process_asked_to_stop_and_one_that_goes_on(
  toy, one, tmp_path, num_processes, figure
):
  """SIGTERM to one of several; what all saved is restored by one alone."""
  command = cluster.arguments(toy, tmp_path / "run")
  stopped = cluster.run(
    command, num_processes=num_processes, faults="term@2/1,every@2=1"
  )
  stopped.check()
  (step,) = checkpoint.complete_steps(tmp_path / "run" / "checkpoints")[-1:]
  assert 2 <= step < 6, stopped.logs
  assert f"asked to stop: saved at step {step}" in stopped.logs[0]
  for log in stopped.logs[1:]:
    assert "asked to stop" not in log  # said once
  resumed = cluster.run(command).check()
  assert f"steps {step + 1} to 6" in resumed.logs[0]
  worst = assert_like(tmp_path / "run", one)
  figure(
    f"#8 one of {num_processes} asked, all saved step {step}; then 1 process: "
    "loss against that of 1",
    f"{worst:.1e}",
    "1e-6",
  )


@pytest.mark.faults
@pytest.mark.parametrize(
  ("num_processes", "mesh"),
  [
    (2, {}),
    (4, {}),
    (4, {"tensor": 2}),  # each group is of two processes
    (4, {"fsdp": 2, "fsdp_min_size": 1, "tensor": 2}),
  ],
)
def test_several_processes_learn_what_one_does(
  toy, one, tmp_path, *, num_processes, mesh, figure
):
  workdir = tmp_path / "run"
  changes = {f"mesh.{key}": value for key, value in mesh.items()}
  command = cluster.arguments(toy, workdir, **changes)
  finished = cluster.run(command, num_processes=num_processes).check()
  worst = assert_like(workdir, one)
  name = f"#18 loss of {num_processes} processes {mesh or ''}".strip()
  figure(name, f"{worst:.1e}", "1e-6")
  for log in finished.logs[1:]:  # the first one writes and speaks
    assert "localization" not in log
  expected, _ = checkpoint.restore_params(one, use_ema=True)
  params, _ = checkpoint.restore_params(workdir, use_ema=True)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
    params,
    expected,
  )


@pytest.mark.faults
def test_saved_by_four_restored_by_two_and_then_by_one(
  toy, one, tmp_path, figure
):
  """Each time on another mesh; FSDP in between."""
  workdir = tmp_path / "run"

  def command(**changes):
    return cluster.arguments(toy, workdir, **changes)

  cluster.run(command(), num_processes=4, faults="term@2,every@2=1").check()
  cluster.run(
    command(**{"mesh.fsdp": 2, "mesh.fsdp_min_size": 1}),
    num_processes=2,
    faults="term@4,every@4=1",
  ).check()
  cluster.run(command(), num_devices=1).check()
  worst = assert_like(workdir, one)
  figure(
    "#31 loss, 4, then 2 with FSDP, then 1 processes", f"{worst:.1e}", "1e-6"
  )


@pytest.mark.faults
@pytest.mark.parametrize("num_processes", [1, 4])
def test_sigterm_saves_that_step_and_leaves(
  toy, one, tmp_path, num_processes, figure
):
  workdir = tmp_path / "run"
  command = cluster.arguments(toy, workdir)
  started = cluster.start(
    command, num_processes=num_processes, faults="every@1=1"
  )
  cluster.wait_for_step(workdir, 2, started)
  before = max(cluster.losses(workdir))
  began_sec = time.monotonic()
  for process in started:
    process.send_signal(signal.SIGTERM)
  cluster.finish(started).check()
  seconds = time.monotonic() - began_sec
  saved = checkpoint.complete_steps(workdir / "checkpoints")[-1]
  assert saved == max(cluster.losses(workdir)) >= before  # no step is lost
  figure(
    f"#7 SIGTERM to exit, {num_processes} process(es)",
    f"saved at step {saved}, exit 0 after {seconds:.1f} s",
    "30 s",
  )
  cluster.run(command, num_processes=num_processes).check()
  assert_like(workdir, one)


@pytest.mark.faults
@pytest.mark.parametrize("process", [0, 2])
@pytest.mark.parametrize("kind", ["raise", "kill"])
def test_a_process_that_fails_ends_all(toy, tmp_path, kind, process, figure):
  finished = cluster.run(
    cluster.arguments(toy, tmp_path / "run"),
    num_processes=4,
    faults=f"{kind}@3/{process}",
  )
  assert all(finished.codes), (finished.codes, finished.logs)
  figure(
    f"#15 {kind} in process {process} of 4",
    f"exit codes {finished.codes}",
    "none 0",
  )


@pytest.mark.faults
def test_a_stuck_process_is_named_and_all_end(toy, tmp_path, figure):
  timeout_sec = 60.0  # compiling may take ten times as long
  workdir = tmp_path / "run"
  command = cluster.arguments(
    toy, workdir, **{"loop.stall_timeout_sec": timeout_sec}
  )
  started = cluster.start(command, num_processes=4, faults="sleep@4/2=100000")
  cluster.wait_for_step(workdir, 2, started)
  began_sec = time.monotonic()
  finished = cluster.finish(started)
  seconds = time.monotonic() - began_sec
  assert all(finished.codes), finished.codes
  text = "\n".join(finished.logs)
  assert "stuck: process 2 (in input)" in text
  assert "in _happen" in finished.logs[2]  # the stack of the stuck thread
  for log in finished.logs:
    assert "Current thread" in log or "Thread 0x" in log, log
  figure(
    f"#15 stuck process to the end of all 4, time-out {timeout_sec:.0f} s",
    f"{seconds:.1f} s, codes {finished.codes}",
    f"{timeout_sec + 10:.0f} s, none 0",
  )


@pytest.mark.faults
def test_a_thread_that_python_cannot_stop_ends_as_well(toy, tmp_path, figure):
  finished = cluster.run(
    cluster.arguments(
      toy, tmp_path / "run", **{"loop.stall_timeout_sec": 30.0}
    ),
    # Steps that the watchdog sees: until then it allows for a compilation.
    faults="every@1=0.7,hang@6=300",
  )
  assert finished.codes[0]
  assert "in _happen" in finished.logs[0]
  figure("#15 hang in C code", f"exit code {finished.codes[0]}", "not 0")


@pytest.mark.faults
def test_a_slow_process_is_named(toy, tmp_path, figure):
  workdir = tmp_path / "run"
  finished = cluster.run(
    cluster.arguments(toy, workdir, **{"loop.steps": 12}),
    num_processes=4,
    faults="every@1/3=1.5",
  ).check()
  assert "process 3 on" in finished.logs[0]
  assert "is slow" in finished.logs[0]
  line = next(x for x in finished.logs[0].splitlines() if "is slow" in x)
  figure("#16 slow process", line, "named")
  *_, step_sec = (
    line["perf/step_sec"]
    for line in writer.read_metrics(workdir)
    if "perf/step_sec" in line
  )
  figure(
    "#16 step of all, where one sleeps 1.5 s in each",
    f"{step_sec:.2f} s",
    "1.5 s and a step of its own",
  )
