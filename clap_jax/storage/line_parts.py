"""Appends lines in a bucket as objects that are joined when read.

Objects cannot be appended to. Lines are buffered for some seconds and then
written as another object, FIRST-LAST.txt, whose numbers count the writes. Once
there are many, one object FIRST-LAST replaces those that it joins; they are
ignored as soon as it exists.
"""

import re
import time
from collections.abc import Callable

from clap_jax.storage import objects
from clap_jax.storage.locations import ObjectPath

FLUSH_SEC = 10.0
_MAX_PARTS = 100
_NAME = re.compile(r"(\d{8})-(\d{8})\.txt")


class LineParts:
  """Appends lines to the parts below a name, from one process at a time."""

  def __init__(self, folder: ObjectPath, *, keep: Callable[[bytes], bool]):
    """Removes the lines that `keep` rejects, and appends after the others."""
    self._folder = folder
    self._lines: list[bytes] = []
    self._flushed_sec = time.monotonic()
    parts = _parts(folder)
    self._last = max((last for _, last in parts), default=0)
    self._num_parts = len(parts)
    for part in parts:
      content = _read(folder, part)
      kept = b"".join(filter(keep, content.splitlines(keepends=True)))
      if kept != content:
        _write(folder, part, kept)

  def append(self, line: bytes) -> None:
    """Buffers a line, to be written together with others."""
    self._lines.append(line)
    if time.monotonic() - self._flushed_sec >= FLUSH_SEC:
      self.flush()

  def flush(self) -> None:
    """Waits until all lines are in the bucket."""
    self._flushed_sec = time.monotonic()
    if not self._lines:
      return
    number = self._last + 1
    _write(self._folder, (number, number), b"".join(self._lines))
    self._lines, self._last = [], number
    self._num_parts += 1
    if self._num_parts > _MAX_PARTS:
      self._join()

  def _join(self) -> None:
    parts = _parts(self._folder)
    joined = b"".join(_read(self._folder, part) for part in parts)
    whole = parts[0][0], parts[-1][1]
    _write(self._folder, whole, joined)
    keys = [(self._folder / _name(part)).key for part in parts if part != whole]
    objects.remove_all(self._folder.scheme, keys)
    self._num_parts = 1


def read(folder: ObjectPath) -> bytes:
  """Reads all lines in order; empty if there are no parts."""
  return b"".join(_read(folder, part) for part in _parts(folder))


def _parts(folder: ObjectPath) -> list[tuple[int, int]]:
  """Returns (first, last) of the parts in order, without joined ones."""
  found = sorted(
    (int(match[1]), -int(match[2]))
    for name, _ in objects.iter_names(folder.scheme, folder.key)
    if (match := _NAME.fullmatch(name))
  )
  kept: list[tuple[int, int]] = []
  for first, minus_last in found:
    if not kept or -minus_last > kept[-1][1]:
      kept.append((first, -minus_last))
  return kept


def _name(part: tuple[int, int]) -> str:
  return f"{part[0]:08d}-{part[1]:08d}.txt"


def _read(folder: ObjectPath, part: tuple[int, int]) -> bytes:
  path = folder / _name(part)
  return objects.read(path.scheme, path.key)


def _write(folder: ObjectPath, part: tuple[int, int], content: bytes) -> None:
  path = folder / _name(part)
  objects.write(path.scheme, path.key, content)
