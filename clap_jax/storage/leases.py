"""Grants one process at a time the right to write below a bucket prefix.

A bucket has no locks. The holder is the process that created the object of the
highest number, NAME/<number>.json, with the expiry time; it renews that object
well before it expires. To take over, a process creates the object of the next
number, which the store allows only once. The clocks of the machines must agree
within a few seconds, as those of a cluster do.
"""

import contextlib
import fcntl
import os
import platform
import re
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import orjson

from clap_jax.storage import locations, objects, output
from clap_jax.storage.locations import ObjectPath

DURATION_SEC = 60.0
_RENEWALS = 4  # in the duration
_POLLS = 12  # in the duration
_NAME = re.compile(r"(\d{8})\.json")


class LeaseHeldError(RuntimeError):
  """Raised if another process holds the lease.

  Attributes:
    holder: description of the holder.
  """

  def __init__(self, holder: str):
    super().__init__(f"the lease is held by {holder}")
    self.holder = holder


class LeaseLostError(OSError):
  """Raised if the lease expired or was taken over by another process."""


@contextlib.contextmanager
def locked(path: locations.Location) -> Iterator[Callable[[], None]]:
  """Locks a local file, or holds the lease of that name in a bucket.

  The lock of a file ends with its process, however that ends.

  Yields:
    A function that raises a LeaseLostError once the lease is lost.

  Raises:
    LeaseHeldError: another process, or another call, holds it.
  """
  if isinstance(path, ObjectPath):
    with held(path) as check:
      yield check
    return
  with output.open_appending(path) as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      file.seek(0)
      holder = file.read(200).decode("ascii", "replace").strip()
      raise LeaseHeldError(holder or "an unknown process") from None
    file.truncate(0)
    file.write(_describe_process().encode())
    file.flush()
    yield lambda: None


def _describe_process() -> str:
  return f"process {os.getpid()} on {platform.node()}"


@contextlib.contextmanager
def held(
  folder: ObjectPath, *, duration_sec: float | None = None
) -> Iterator[Callable[[], None]]:
  """Holds the lease `folder` until the block ends.

  If a holder does not renew its lease, e.g. after it was killed, the call waits
  until the lease expires.

  Args:
    folder: prefix of the objects of the lease and of nothing else.
    duration_sec: time until the lease of a dead holder expires; None for
      DURATION_SEC.

  Yields:
    A function that raises a LeaseLostError once the lease is lost.

  Raises:
    LeaseHeldError: another process holds the lease.
  """
  lease = _Lease(folder, DURATION_SEC if duration_sec is None else duration_sec)
  lease.take()
  renewing = threading.Thread(
    target=lease.renew_for_ever, name="lease", daemon=True
  )
  renewing.start()
  try:
    yield lease.check
  finally:
    lease.stop.set()
    renewing.join()
    lease.release()


class _Lease:
  def __init__(self, folder: ObjectPath, duration_sec: float):
    self._folder = folder
    self._duration_sec = duration_sec
    self._number = 0
    self._expires = 0.0
    self._lost = ""
    self._mine = {
      "owner": _describe_process(),
      "nonce": secrets.token_hex(8),
    }
    self.stop = threading.Event()

  def take(self) -> None:
    seen: dict[str, Any] | None = None
    while True:
      number, record = self._newest()
      left_sec = record["expires"] - time.time()
      if left_sec <= 0:
        try:
          self._write(number + 1, create=True)
        except FileExistsError:
          continue  # another was faster
        self._remove_older()
        return
      if seen is not None and record != seen:
        raise LeaseHeldError(record["owner"])
      if seen is None:
        print(
          f"{self._folder.parent}: waiting up to {left_sec:.0f} s for the "
          f"lease of {record['owner']}, in case it was killed",
          file=sys.stderr,
        )
      seen = record
      time.sleep(min(left_sec, self._duration_sec / _POLLS) + 0.01)

  def renew_for_ever(self) -> None:
    while not self.stop.wait(self._duration_sec / _RENEWALS):
      try:
        if self._is_mine():
          self._write(self._number)
        else:
          self._lost = "another process took it over"
          return
      except OSError as error:
        if time.time() > self._expires:
          self._lost = str(error)
          return

  def check(self) -> None:
    lost = self._lost
    if not lost and time.time() > self._expires:
      lost = "it was not renewed in time"
    if lost:
      raise LeaseLostError(
        f"the lease of {self._folder.parent} is lost ({lost}); writing there "
        "has stopped"
      )

  def release(self) -> None:
    """Ends the lease at once, so that the next process need not wait."""
    with contextlib.suppress(OSError):  # it expires otherwise
      if not self._lost and self._is_mine():
        self._write(self._number, ended=True)

  def _is_mine(self) -> bool:
    number, record = self._newest()
    return number == self._number and record.get("nonce") == self._mine["nonce"]

  def _newest(self) -> tuple[int, dict[str, Any]]:
    """Returns the highest number and its record, or an expired record.

    Raises:
      LeaseHeldError: the record cannot be read.
    """
    numbers = [
      int(match[1])
      for name, _ in objects.iter_names(self._folder.scheme, self._folder.key)
      if (match := _NAME.fullmatch(name))
    ]
    if not numbers:
      return 0, {"expires": 0.0}
    path = self._path(max(numbers))
    try:
      record = orjson.loads(objects.read(path.scheme, path.key))
      return max(numbers), {
        "expires": float(record["expires"]),
        "owner": str(record["owner"])[:200],
        "nonce": str(record["nonce"]),
      }
    except FileNotFoundError:  # a newer one was created meanwhile
      return self._newest()
    except (KeyError, TypeError, ValueError) as error:
      raise LeaseHeldError(
        f"the writer of {path}, which is damaged ({error}); remove it if "
        "no process uses it"
      ) from error

  def _path(self, number: int) -> ObjectPath:
    return self._folder / f"{number:08d}.json"

  def _write(
    self, number: int, *, create: bool = False, ended: bool = False
  ) -> None:
    duration_sec = 0.0 if ended else self._duration_sec
    path, expires = self._path(number), time.time() + duration_sec
    content = orjson.dumps(self._mine | {"expires": expires})
    write = objects.create if create else objects.write
    write(path.scheme, path.key, content)
    self._number, self._expires = number, expires

  def _remove_older(self) -> None:
    older = [
      self._path(number).key
      for number in range(self._number - 8, self._number)
      if number > 0
    ]
    objects.remove_all(self._folder.scheme, older)
