"""Makes items in a thread while the caller works on those before."""

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")
_POLL_SEC = 0.2


class Ahead(Generic[T]):
  """Iterates over items that a thread makes, of which at most `depth` wait.

  The thread starts at once. What it raises is raised in the caller; it stops
  when this is closed.
  """

  def __init__(self, items: Iterable[T], *, depth: int):
    self._items = items
    self._waiting: queue.Queue = queue.Queue(maxsize=depth)
    self._is_over = threading.Event()
    self._thread = threading.Thread(target=self._work, daemon=True)
    self._thread.start()

  def _put(self, message) -> bool:
    while not self._is_over.is_set():
      try:
        self._waiting.put(message, timeout=_POLL_SEC)
        return True
      except queue.Full:
        continue
    return False

  def _work(self) -> None:
    try:
      for item in self._items:
        if not self._put((item, None)):
          return
      self._put((None, StopIteration()))
    except BaseException as error:  # handed over to the listener
      self._put((None, error))
    finally:
      close = getattr(self._items, "close", None)
      if close is not None:
        close()

  def __iter__(self) -> Iterator[T]:
    return self

  def __next__(self) -> T:
    if self._is_over.is_set():
      raise StopIteration
    item, error = self._waiting.get()
    if error is not None:
      self.close()
      raise error
    return item

  def close(self) -> None:
    """Stops the thread after the item that it makes, and waits for it."""
    self._is_over.set()
    self._thread.join()
