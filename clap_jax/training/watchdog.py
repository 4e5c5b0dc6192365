"""Ends a run without progress and reports where it hangs.

It monitors progress rather than a heartbeat: a process that is alive but stuck
still has one, and all others wait for it in a collective.
"""

import collections
import faulthandler
import math
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from clap_jax.training import processes

# Phases of the loop; in the first three a step is in progress.
INPUT, DISPATCH, DEVICE, HOOKS = "input", "dispatch", "device", "hooks"
_WINDOW_STEPS = 200
_TIMES_P95 = 10.0
_TIMES_FIRST = 10.0  # the first step compiles
_TIMES_HOOKS = 30.0  # a whole evaluation, or the save of a large state
_PUBLISH_SEC = 2.0
_C_CODE_SEC = 5.0  # longer than the limit, so that this thread comes first


class Watchdog:
  """A watchdog thread; use it in a with statement.

  The loop calls `enter` at the start of every phase.
  """

  def __init__(
    self,
    *,
    stall_timeout_sec: float | None,
    on_stall: Callable[[str], None] | None = None,
    poll_sec: float = 0.5,
  ):
    """Creates the watchdog without starting it.

    Args:
      stall_timeout_sec: see LoopConfig; None disables the watchdog.
      on_stall: called with the report instead of ending all processes.
    """
    self._timeout_sec = stall_timeout_sec
    self._on_stall = on_stall or _end_all
    self._poll_sec = poll_sec
    self._stopped = threading.Event()
    self._thread = threading.Thread(
      target=self._run, name="watchdog", daemon=True
    )
    self._steps = collections.deque(maxlen=_WINDOW_STEPS)  # seconds
    self._phase, self._step, self._since_sec = HOOKS, 0, time.monotonic()
    self._step_began_sec: float | None = None
    self._is_warm = False
    self._idle_sec = 0.0
    self._host_sec = 0.0  # of its own, per step, lately

  def __enter__(self):
    if self._timeout_sec is not None:
      self._thread.start()
    return self

  def __exit__(self, *_):
    if self._thread.is_alive():
      self._stopped.set()
      self._thread.join()

  def enter(self, phase: str, step: int) -> None:
    """Records that the loop entered `phase` of the step after `step`."""
    now_sec = time.monotonic()
    if phase == INPUT:
      began_sec = self._step_began_sec
      if began_sec is not None and self._is_warm and self._phase != HOOKS:
        self._steps.append(now_sec - began_sec)
      # The first step compiles and is not representative.
      self._is_warm = self._step_began_sec is not None
      self._step_began_sec = now_sec
    self._phase, self._step, self._since_sec = phase, step, now_sec
    self._idle_sec = 0.0

  def spent(self, host_sec: float) -> None:
    """Records this host's own time of the last step, without waiting."""
    self._host_sec += 0.1 * (host_sec - self._host_sec)

  def limit_sec(self) -> float:
    """Returns the time limit of the current phase."""
    if self._timeout_sec is None:
      return math.inf
    if self._phase == HOOKS:
      return _TIMES_HOOKS * self._timeout_sec
    if not self._steps:
      return _TIMES_FIRST * self._timeout_sec
    p95_sec = float(np.percentile(list(self._steps), 95))
    return max(self._timeout_sec, _TIMES_P95 * p95_sec)

  def progress(self) -> dict[str, Any]:
    """Returns the progress that is published to the other processes."""
    return {
      "step": self._step,
      "phase": self._phase,
      "idle_sec": round(self._idle_sec, 1),
      "host_sec": self._host_sec,
      "host": socket.gethostname(),
    }

  def _run(self) -> None:
    publish_sec = before_sec = time.monotonic()
    while not self._stopped.wait(self._poll_sec):
      # C code that never releases the interpreter is detected by a native
      # thread, whose timer is reset at every poll.
      patience_sec = self.limit_sec() + _C_CODE_SEC
      faulthandler.dump_traceback_later(
        patience_sec, exit=True, file=processes.STDERR
      )
      now_sec = time.monotonic()
      # A process that was suspended and resumed was not stuck meanwhile.
      self._idle_sec += min(now_sec - before_sec, 4 * self._poll_sec)
      before_sec = now_sec
      try:
        if now_sec >= publish_sec:
          processes.publish(self.progress())
          publish_sec = now_sec + _PUBLISH_SEC
        if self._idle_sec > self.limit_sec():
          self._on_stall(self._report())
          break
      except Exception as error:  # the coordinator is gone, so the run is over
        self._on_stall(f"the other processes cannot be reached: {error}")
        break
    faulthandler.cancel_dump_traceback_later()

  def _report(self) -> str:
    own = self.progress()
    everyone = processes.published() | {processes.index(): own}
    lines = [
      f"no progress for {self._idle_sec:.0f} s (limit {self.limit_sec():.0f} "
      f"s); {stuck_processes(everyone)}"
    ]
    lines += [
      f"  process {index} on {one['host']}: {one['phase']} of step "
      f"{one['step'] + 1} for {one['idle_sec']:.0f} s"
      for index, one in sorted(everyone.items())
    ]
    return "\n".join(lines)


def stuck_processes(everyone: Mapping[int, Mapping]) -> str:
  """Returns the processes that the others wait for.

  A process that waits for its devices has dispatched its part of the step, so
  the cause is those that have not, at the earliest step.
  """
  blame = {DEVICE: 2, DISPATCH: 1}  # a dispatch may wait for the others too
  first_step = min(one["step"] for one in everyone.values())
  behind = {i: one for i, one in everyone.items() if one["step"] == first_step}
  least = min(blame.get(one["phase"], 0) for one in behind.values())
  names = ", ".join(
    f"{i} (in {one['phase']})"
    for i, one in sorted(behind.items())
    if blame.get(one["phase"], 0) == least
  )
  return f"stuck: process {names}"


def slowest(everyone: Mapping[int, Mapping]) -> tuple[int, float]:
  """Returns (process with the longest own step time, ratio to median)."""
  times = {i: one["host_sec"] for i, one in everyone.items()}
  process = max(times, key=times.__getitem__)
  median = float(np.median(list(times.values())))
  return process, times[process] / median if median > 0 else 1.0


def _end_all(report: str) -> None:
  print(
    f"process {processes.index()}: {report}\nwhere its threads are:",
    file=sys.stderr,
    flush=True,
  )
  faulthandler.dump_traceback(file=processes.STDERR, all_threads=True)
  processes.end_all(processes.FAILED_CODE, report)
