"""Makes items in a thread while the caller works on those before."""

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Ahead(Generic[T]):
  """Iterates over items that a thread makes; close it after use.

  The thread starts at once. An error of the items is raised in their place.
  """

  def __init__(self, items: Iterable[T], *, depth: int, name: str = "ahead"):
    """Starts the thread.

    Args:
      items: items to make; closed in the thread if they have `close`.
      depth: number of items that may wait besides the one being made.
    """
    self._items = items
    self._room = threading.Semaphore(depth + 1)
    self._ready: queue.SimpleQueue[tuple[T] | BaseException] = (
      queue.SimpleQueue()
    )
    self._is_closed = False
    self._thread = threading.Thread(target=self._work, name=name, daemon=True)
    self._thread.start()

  def __iter__(self) -> Iterator[T]:
    return self

  def __next__(self) -> T:
    if self._is_closed:
      raise StopIteration
    made = self._ready.get()
    if isinstance(made, BaseException):
      self._ready.put(made)  # the next call raises it as well
      raise made
    self._room.release()
    return made[0]

  def close(self) -> None:
    """Stops the thread after the current item and waits for it."""
    self._is_closed = True
    self._room.release()
    self._thread.join()

  def _work(self) -> None:
    try:
      items = iter(self._items)
      while True:
        self._room.acquire()
        if self._is_closed:
          break
        self._ready.put((next(items),))
    except BaseException as error:  # raised in the caller's thread
      self._ready.put(error)
    finally:
      getattr(self._items, "close", lambda: None)()
