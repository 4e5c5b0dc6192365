"""Reads data sets of untrusted HDF5 files.

An HDF5 file may refer to data in any other file of the machine, name filters
that are loaded as libraries, and claim sizes that it does not hold. This module
reads only data sets stored in the file itself, and checks their sizes against
the stored bytes before it reads them.
"""

import contextlib
import math
import zlib
from collections.abc import Iterator
from typing import BinaryIO

import h5py
import h5py.h5l  # not imported by h5py for its users
import numpy as np

from clap_jax.data import hdf5_chunks
from clap_jax.storage import locations, placeholders, untrusted

_MAX_FILE_BYTES = 1 << 40  # one file may hold the features of all videos
_MAX_BYTES = 4 << 30  # of a data set
_MAX_RATIO = 100  # of read to stored bytes
_FREE_BYTES = 64 << 20  # allowed for any data set
_MAX_SOFT_LINKS = 8


class Hdf5Error(ValueError):
  """Raised for an HDF5 file that is unreadable or refers outside itself."""


class Hdf5File:
  """An opened HDF5 file."""

  def __init__(self, file: h5py.File, *, raw: BinaryIO, path: str):
    self._file, self._raw = file, raw
    self._path = path

  def __contains__(self, key: str) -> bool:
    return self._find(self._file, key) is not None

  def read(self, key: str | None) -> np.ndarray:
    """Returns a data set, or the only one of a group.

    Args:
      key: path of the data set; None for the only entry of the file.

    Raises:
      Hdf5Error: the data set is missing or refused.
    """
    if key is None and len(self._file) == 1:
      key = next(iter(self._file))
    found = self._find(self._file, key) if key else None
    if isinstance(found, h5py.Group) and len(found) == 1:
      found = self._find(found, next(iter(found.keys())))
    if not isinstance(found, h5py.Dataset):
      group = found if isinstance(found, h5py.Group) else self._file
      names = sorted(group)
      where = "" if group is self._file else f" under {key!r:.100}"
      some = ", ".join(name[:100] for name in names[:10])
      raise Hdf5Error(
        f"{self._path} has no data set {key!r:.100}; it holds {len(names)} "
        f"entries{where}: {some}{', ...' if names[10:] else ''}"
      )
    try:
      filters = _check(found)
      if filters is None:
        return hdf5_chunks.read_contiguous(found, self._raw)
      return hdf5_chunks.read_chunked(found, self._raw, filters)
    except Hdf5Error as error:
      raise Hdf5Error(f"{self._path}: {key!r:.100} {error}") from error
    except (ValueError, IndexError, zlib.error) as error:
      raise Hdf5Error(
        f"{self._path}: {key!r:.100} is damaged: {error}"
      ) from error

  def _find(self, group, key: str, num_links: int = 0):
    """Returns the object at a path within the file, or None."""
    node = group
    for part in filter(None, key.split("/")):
      name = part.encode()
      if not isinstance(node, h5py.Group) or not node.id.links.exists(name):
        return None
      kind = node.id.links.get_info(name).type
      if kind == h5py.h5l.TYPE_SOFT and num_links < _MAX_SOFT_LINKS:
        target = node.id.links.get_val(name).decode()
        start = self._file if target.startswith("/") else node
        node = self._find(start, target, num_links + 1)
      elif kind == h5py.h5l.TYPE_HARD:
        node = node[part]
      else:
        raise Hdf5Error(
          f"{self._path}: {key!r:.100} is a link that leads out of the file; "
          "it is not followed"
        )
    return node


@contextlib.contextmanager
def open_hdf5(path: locations.PathLike) -> Iterator[Hdf5File]:
  """Opens an HDF5 file in a with statement.

  Raises:
    Hdf5Error: the file is damaged or not HDF5; may be raised in the block.
    FileNotFoundError: the file does not exist.
  """
  try:
    with untrusted.open_file(path, max_bytes=_MAX_FILE_BYTES) as raw:
      placeholders.check(raw, name=path)
      with h5py.File(raw, "r") as file:
        yield Hdf5File(file, raw=raw, path=str(path))
  except (Hdf5Error, FileNotFoundError):
    raise
  except (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    zlib.error,
  ) as error:
    raise Hdf5Error(f"cannot read {path}: {error}") from error


def _check(dataset: h5py.Dataset) -> list[int] | None:
  """Returns the filters of a chunked data set; None if it is contiguous.

  Raises:
    Hdf5Error: the data set is refused, with the reason.
  """
  properties = dataset.id.get_create_plist()
  layout = properties.get_layout()
  if properties.get_external_count():
    raise Hdf5Error("stores its data in other files, which are not opened")
  if layout == h5py.h5d.VIRTUAL:
    raise Hdf5Error("is assembled from other files, which are not opened")
  kind = dataset.dtype
  if kind.kind not in "fiu":
    raise Hdf5Error(f"is of type {kind}; expected numbers")
  if not h5py.h5t.py_create(kind).equal(dataset.id.get_type()):
    raise Hdf5Error(f"is of a type like {kind} with another layout")
  if dataset.shape is None:
    raise Hdf5Error("holds nothing")
  filters = [
    properties.get_filter(number)[0]
    for number in range(properties.get_nfilters())
  ]
  if filters != [known for known in hdf5_chunks.FILTERS if known in filters]:
    raise Hdf5Error(
      f"was compressed with the filters {filters}, some of them unsupported; "
      "write it again with gzip, or without compression"
    )
  size = math.prod(dataset.shape) * kind.itemsize
  stored = dataset.id.get_storage_size()
  if size > _MAX_BYTES or size > max(_MAX_RATIO * stored, _FREE_BYTES):
    raise Hdf5Error(
      f"claims {dataset.shape} numbers, {size} bytes, of which {stored} are "
      "stored"
    )
  if size and not stored:
    raise Hdf5Error("holds no numbers, only a shape")
  if layout == h5py.h5d.CHUNKED:
    chunk = math.prod(properties.get_chunk()) * kind.itemsize
    if chunk > max(4 * size, _FREE_BYTES):
      raise Hdf5Error(f"claims chunks of {chunk} bytes for {size}")
    return filters
  if layout != h5py.h5d.CONTIGUOUS:
    raise Hdf5Error("is stored in its header; write it again contiguously")
  return None
