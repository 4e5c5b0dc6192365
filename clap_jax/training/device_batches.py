"""Transfers batches to the devices in a background thread."""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

AHEAD = 2  # batches on the devices in addition to that of the step


class DeviceBatches:
  """An iterator over batches on the devices; close it after use.

  An error of the batches is raised in their place. With `ahead` 0 there is no
  thread: a batch is transferred on request.
  """

  def __init__(
    self,
    batches: Iterator[Any],
    put_batch: Callable[[Any], Any],
    *,
    ahead: int = AHEAD,
  ):
    """Starts the thread; `put_batch` transfers a host batch."""
    self._batches = batches
    self._put_batch = put_batch
    self._room = threading.Semaphore(ahead)
    self._ready: queue.SimpleQueue[tuple[Any, BaseException | None]] = (
      queue.SimpleQueue()
    )
    self._is_closed = False
    self._thread = threading.Thread(
      target=self._run, name="device-batches", daemon=True
    )
    self._has_thread = ahead > 0
    if self._has_thread:
      self._thread.start()

  def __iter__(self) -> Iterator[Any]:
    return self

  def __next__(self) -> Any:
    if not self._has_thread:
      return self._put_batch(next(self._batches))
    batch, error = self._ready.get()
    if error is not None:
      self._ready.put((None, error))  # so will the next call find
      raise error
    self._room.release()
    return batch

  def scalars(self) -> dict[str, float]:
    """Returns the counts of the host's batches, if they have any."""
    return getattr(self._batches, "scalars", dict)()

  def close(self) -> None:
    """Ends the thread after its current batch and closes the batches."""
    self._is_closed = True
    if self._has_thread:
      self._room.release()
      self._thread.join()
    getattr(self._batches, "close", lambda: None)()

  def _run(self) -> None:
    try:
      while True:
        self._room.acquire()
        if self._is_closed:
          break
        self._ready.put((self._put_batch(next(self._batches)), None))
    except BaseException as error:  # for the thread that asks for the batch
      self._ready.put((None, error))
