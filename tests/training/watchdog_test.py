import threading
import time

import pytest

from clap_jax.training import watchdog

SHORT_SEC = 2.0  # more than a loaded machine stalls by itself


def everyone(*positions):
  return {
    index: {"step": step, "phase": phase, "idle_sec": 9.0, "host": "h"}
    for index, (step, phase) in enumerate(positions)
  }


@pytest.mark.parametrize(
  ("positions", "named"),
  [
    ([(5, "device"), (4, "input"), (5, "device")], "1 (in input)"),
    ([(4, "dispatch"), (4, "input"), (4, "device")], "1 (in input)"),
    ([(4, "dispatch"), (4, "device")], "0 (in dispatch)"),
    ([(4, "hooks"), (5, "device")], "0 (in hooks)"),
    ([(4, "device"), (4, "device")], "0 (in device), 1 (in device)"),
    ([(3, "device"), (4, "input")], "0 (in device)"),
  ],
)
def test_the_process_that_the_others_wait_for_is_named(positions, named):
  assert watchdog.stuck_processes(everyone(*positions)).endswith(named)


def test_the_slowest_process():
  hosts = {i: {"host_sec": sec} for i, sec in enumerate((1.0, 3.0, 1.0))}
  assert watchdog.slowest(hosts) == (1, 3.0)
  assert watchdog.slowest({0: {"host_sec": 0.0}}) == (0, 1.0)


def test_limits(monkeypatch):
  now_sec = 0.0
  monkeypatch.setattr(time, "monotonic", lambda: now_sec)
  stall_watchdog = watchdog.Watchdog(stall_timeout_sec=100.0)
  assert stall_watchdog.limit_sec() == 3000.0  # before the loop
  stall_watchdog.enter(watchdog.INPUT, 0)
  assert stall_watchdog.limit_sec() == 1000.0  # compiles
  for step in range(1, 101):
    now_sec += 20.0 if step > 90 else 1.0
    now_sec += 1e6 * (step == 1)  # compiles
    stall_watchdog.enter(watchdog.DEVICE, step)
    stall_watchdog.enter(watchdog.INPUT, step)
  assert stall_watchdog.limit_sec() == 200.0  # ten times the 95th percentile
  stall_watchdog.enter(watchdog.HOOKS, 100)
  assert stall_watchdog.limit_sec() == 3000.0


def test_no_progress_is_reported_once_and_progress_is_not():
  reports, stalled = [], threading.Event()

  def on_stall(report):
    reports.append(report)
    stalled.set()

  with watchdog.Watchdog(
    stall_timeout_sec=SHORT_SEC, on_stall=on_stall, poll_sec=0.02
  ) as stall_watchdog:
    for step in range(4):
      stall_watchdog.enter(watchdog.INPUT, step)
      stall_watchdog.enter(watchdog.DEVICE, step + 1)
      time.sleep(SHORT_SEC / 200)
    assert not reports
    assert stalled.wait(60)
  assert len(reports) == 1
  assert "stuck: process 0 (in device)" in reports[0]
  assert "device of step 5" in reports[0]


def test_none_watches_nothing():
  with watchdog.Watchdog(stall_timeout_sec=None) as stall_watchdog:
    stall_watchdog.enter(watchdog.INPUT, 0)
    assert "watchdog" not in [thread.name for thread in threading.enumerate()]
