"""Transfers batches to the devices in a background thread."""

from collections.abc import Callable, Iterator
from typing import Any

from clap_jax.training import ahead as ahead_lib

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
    self._on_devices = map(put_batch, batches)
    self._thread = None
    if ahead:
      self._thread = self._on_devices = ahead_lib.Ahead(
        self._on_devices, depth=ahead - 1, name="device-batches"
      )

  def __iter__(self) -> Iterator[Any]:
    return self

  def __next__(self) -> Any:
    return next(self._on_devices)

  def scalars(self) -> dict[str, float]:
    """Returns the counts of the host's batches, if they have any."""
    return getattr(self._batches, "scalars", dict)()

  def close(self) -> None:
    """Ends the thread after its current batch and closes the batches."""
    if self._thread is not None:
      self._thread.close()
    getattr(self._batches, "close", lambda: None)()
