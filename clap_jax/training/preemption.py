"""Stops all processes after the same step on SIGTERM and saves."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

from jax.experimental import multihost_utils

from clap_jax.training import processes


class Preempted(SystemExit):
  """Raised after a requested stop; the run is saved and can resume.

  It is a SystemExit with code 0: uncaught it ends the process successfully,
  since nothing is lost. A caller with stages must not start the next one.
  """

  def __init__(self, step: int | None):
    """Creates the exception; `step` is None outside of training steps."""
    super().__init__(0)
    self.step = step

  def __str__(self) -> str:
    place = "" if self.step is None else f" at step {self.step}"
    return f"asked to stop: saved{place}; run again to continue"


class StopRequest:
  """Tracks whether the run has been asked to stop."""

  def __init__(self):
    self._event = threading.Event()

  def is_due(self, step: int) -> bool:
    """Returns True if the run must stop after `step`; call it every step.

    If one of several processes gets the signal, all stop at a common step that
    none of them has passed.
    """
    if processes.count() > 1:
      return multihost_utils.reached_preemption_sync_point(step)
    return self._event.is_set()

  def request(self) -> None:
    self._event.set()


@contextlib.contextmanager
def watch_sigterm() -> Iterator[StopRequest]:
  """Turns SIGTERM into a stop request until the end of the block.

  In a run of several processes the coordinator's client has done so since they
  joined. Outside of the main thread, where signals cannot be handled, it does
  nothing.
  """
  stop = StopRequest()
  with _on_sigterm(stop.request):
    yield stop


@contextlib.contextmanager
def leave_on_sigterm() -> Iterator[None]:
  """Exits at once on SIGTERM before the first or after the last step.

  The results of steps are saved, files are written atomically, and the next run
  completes the rest. `watch_sigterm` inside takes over for the steps. Several
  processes, which must not exit one by one, finish their current work.
  """

  def leave():
    raise Preempted(None)

  with _on_sigterm(leave):
    yield


@contextlib.contextmanager
def _on_sigterm(action: Callable[[], None]) -> Iterator[None]:
  """Calls `action` on SIGTERM, in the main thread of a one-process run."""
  in_main_thread = threading.current_thread() is threading.main_thread()
  if processes.count() > 1 or not in_main_thread:
    yield
    return
  previous = signal.signal(signal.SIGTERM, lambda *_: action())
  try:
    yield
  finally:
    signal.signal(signal.SIGTERM, previous)
