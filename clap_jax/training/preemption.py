"""SIGTERM: finish the step, save, leave."""

import contextlib
import signal
import threading
from collections.abc import Iterator


class Preempted(SystemExit):
  """The run was asked to stop, has saved, and continues when run again.

  It is a SystemExit with code 0: left alone it ends the process as a success,
  since nothing is lost. A caller with stages must not go on to the next one.
  """

  def __init__(self, step: int):
    super().__init__(0)
    self.step = step

  def __str__(self) -> str:
    return f"asked to stop: saved at step {self.step}; run again to continue"


class StopRequest:
  """Whether this process has been asked to stop."""

  def __init__(self):
    self._event = threading.Event()

  @property
  def requested(self) -> bool:
    return self._event.is_set()

  def request(self) -> None:
    self._event.set()


@contextlib.contextmanager
def watch_sigterm() -> Iterator[StopRequest]:
  """Turns SIGTERM into a request until the end of the block.

  Outside of the main thread, where signals cannot be handled, it watches
  nothing.
  """
  stop = StopRequest()
  if threading.current_thread() is not threading.main_thread():
    yield stop
    return
  previous = signal.signal(signal.SIGTERM, lambda *_: stop.request())
  try:
    yield stop
  finally:
    signal.signal(signal.SIGTERM, previous)
