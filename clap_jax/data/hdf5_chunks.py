"""Decompresses chunks of an HDF5 data set without libhdf5's filters.

The library crashes on damaged chunks and decompresses them to whatever size
their streams have. Here it only locates the chunks, which are read and
decompressed within bounds.
"""

import math
import os
import zlib
from collections.abc import Sequence
from typing import BinaryIO

import h5py
import numpy as np

DEFLATE, SHUFFLE = h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE
LZF, FLETCHER32 = h5py.h5z.FILTER_LZF, h5py.h5z.FILTER_FLETCHER32
# In the order of application when written; each at most once.
FILTERS = (SHUFFLE, DEFLATE, LZF, FLETCHER32)


def read_contiguous(dataset: h5py.Dataset, raw: BinaryIO) -> np.ndarray:
  """Reads a contiguous data set."""
  place = dataset.id.get_offset()
  shape = dataset.id.shape
  size = math.prod(shape) * dataset.dtype.itemsize
  content = b"" if place is None else os.pread(raw.fileno(), size, place)
  if len(content) != size:
    raise ValueError(f"it ends after {len(content)} of {size} bytes")
  return np.frombuffer(content, dataset.dtype).reshape(shape)


def read_chunked(
  dataset: h5py.Dataset, raw: BinaryIO, filters: Sequence[int]
) -> np.ndarray:
  """Reads a chunked data set, all chunks of which must exist."""
  shape = dataset.id.shape
  sides = dataset.id.get_create_plist().get_chunk()
  found = np.empty(shape, dataset.dtype)
  size = math.prod(sides) * dataset.dtype.itemsize
  places: list = []
  dataset.id.chunk_iter(places.append)
  expected = math.prod(
    -(-whole // side) for whole, side in zip(shape, sides, strict=True)
  )
  if (
    len({place.chunk_offset for place in places}) != expected
    or len(places) != expected
  ):
    raise ValueError(f"{len(places)} of {expected} chunks are stored")
  for place in places:
    corner = place.chunk_offset
    if any(
      at % side or at >= whole
      for at, side, whole in zip(corner, sides, shape, strict=True)
    ):
      raise ValueError(f"a chunk at {corner}")
    if place.size > 2 * size + 4096:
      raise ValueError(f"a chunk of {place.size} bytes for {size}")
    packed = os.pread(raw.fileno(), place.size, place.byte_offset)
    content = _unpacked(
      packed, size, filters, place.filter_mask, dataset.dtype.itemsize
    )
    chunk = np.frombuffer(content, dataset.dtype).reshape(sides)
    kept = [
      min(side, whole - at)
      for at, side, whole in zip(corner, sides, shape, strict=True)
    ]
    target = tuple(
      slice(at, at + count) for at, count in zip(corner, kept, strict=True)
    )
    found[target] = chunk[tuple(map(slice, kept))]
  return found


def _unpacked(
  content: bytes,
  size: int,
  filters: Sequence[int],
  skipped: int,
  itemsize: int,
) -> bytes:
  """Undoes the filters of a chunk of `size` bytes, except `skipped` bits.

  Raises:
    ValueError: it does not decompress to that size, or its checksum is wrong.
    zlib.error: the chunk is damaged.
  """
  for number, kind in reversed(list(enumerate(filters))):
    if skipped >> number & 1:
      continue
    if kind == FLETCHER32:
      content = _checked(content)
    elif kind == DEFLATE:
      content = zlib.decompressobj().decompress(content, size + 1)
    elif kind == LZF:
      content = _decompress_lzf(content, size)
    elif len(content) == size:
      rows = np.frombuffer(content, np.uint8).reshape(itemsize, -1)
      content = rows.T.tobytes()
  if len(content) != size:
    raise ValueError(f"a chunk expands to {len(content)} bytes, not {size}")
  return content


def _checked(content: bytes) -> bytes:
  """Verifies and strips a Fletcher checksum of big-endian 16-bit words."""
  body, stored = content[:-4], content[-4:]
  words = np.frombuffer(body + bytes(len(body) % 2), ">u2").astype(np.uint64)
  modulus = np.uint64(65535)
  weights = np.arange(len(words), 0, -1, dtype=np.uint64) % modulus
  first = int(words.sum() % modulus)
  second = int((words * weights % modulus).sum() % modulus)
  number = int.from_bytes(stored, "little")
  if (number & 0xFFFF) % 65535 != first or (number >> 16) % 65535 != second:
    raise ValueError("a chunk has a wrong checksum")
  return body


def _decompress_lzf(content: bytes, size: int) -> bytes:
  """Decompresses Lehmann's LZF: literal runs and back references."""
  made, place = bytearray(), 0
  while place < len(content) and len(made) <= size:
    control = content[place]
    place += 1
    if control < 32:
      made += content[place : place + control + 1]
      place += control + 1
      continue
    length = control >> 5
    if length == 7:
      length += content[place]
      place += 1
    start = len(made) - ((control & 31) << 8 | content[place]) - 1
    place += 1
    length += 2
    if start < 0:
      raise ValueError("a chunk refers to bytes before its beginning")
    run = made[start : start + length]
    # A copy may overlap itself: the bytes repeat.
    made += (run * (length // len(run) + 1))[:length]
  return bytes(made)
