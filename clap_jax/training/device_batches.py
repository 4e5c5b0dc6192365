"""Batches on the devices, brought there by a thread of their own."""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

AHEAD = 2  # batches on the devices besides the one that a step reads


class DeviceBatches:
  """Iterates over batches that wait on the devices; close it.

  An error of the batches is raised in their place. With `ahead` 0 there is no
  thread: a batch is made when it is asked for.
  """

  def __init__(
    self,
    batches: Iterator[Any],
    put_batch: Callable[[Any], Any],
    *,
    ahead: int = AHEAD,
  ):
    """Starts; `put_batch` makes device batches of host batches."""
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
    """Counts of the host's batches, where they have any."""
    return getattr(self._batches, "scalars", dict)()

  def close(self) -> None:
    """Ends the thread after the batch that it is at, and the batches."""
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
