"""On SIGTERM, stops all processes after the same step and saves."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

from jax.experimental import multihost_utils

from clap_jax.training import processes


class Preempted(SystemExit):
  """The run was asked to stop, has saved, and continues when run again.

  It is a SystemExit with code 0: left alone it ends the process as a success,
  since nothing is lost. A caller with stages must not go on to the next one.
  """

  def __init__(self, step: int | None):
    """`step` is None where none was under way."""
    super().__init__(0)
    self.step = step

  def __str__(self) -> str:
    place = "" if self.step is None else f" at step {self.step}"
    return f"asked to stop: saved{place}; run again to continue"


class StopRequest:
  """Whether the run has been asked to stop."""

  def __init__(self):
    self._event = threading.Event()

  def is_due(self, step: int) -> bool:
    """Whether to stop after `step`; to be asked after every step.

    If one of several processes is asked, all are to stop at one step that none
    of them has passed.
    """
    if processes.count() > 1:
      return multihost_utils.reached_preemption_sync_point(step)
    return self._event.is_set()

  def request(self) -> None:
    self._event.set()


@contextlib.contextmanager
def watch_sigterm() -> Iterator[StopRequest]:
  """Turns SIGTERM into a request until the end of the block.

  In a run of several processes the coordinator's client has done so since they
  met. Outside of the main thread, where signals cannot be handled, it watches
  nothing.
  """
  stop = StopRequest()
  with _on_sigterm(stop.request):
    yield stop


@contextlib.contextmanager
def leave_on_sigterm() -> Iterator[None]:
  """SIGTERM before the first step or after the last one leaves at once.

  What steps have made is saved, files appear whole or not at all, and the next
  run makes the rest. `watch_sigterm` inside takes over for the steps. Several
  processes, which may not leave one by one, finish what they are at.
  """

  def leave():
    raise Preempted(None)

  with _on_sigterm(leave):
    yield


@contextlib.contextmanager
def _on_sigterm(action: Callable[[], None]) -> Iterator[None]:
  """Calls `action` at SIGTERM, in the main thread of a run of one process."""
  in_main_thread = threading.current_thread() is threading.main_thread()
  if processes.count() > 1 or not in_main_thread:
    yield
    return
  previous = signal.signal(signal.SIGTERM, lambda *_: action())
  try:
    yield
  finally:
    signal.signal(signal.SIGTERM, previous)
