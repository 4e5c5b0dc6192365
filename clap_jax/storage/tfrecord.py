"""Reads TFRecord shards with random access and checksums.

Records are framed as storage/framing.py describes. A sidecar `<shard>.idx`
holds the byte offset of each record as raw little-endian uint64, so that record
i costs one `pread`, whatever the size of the shard, or one request if the shard
is an object in a bucket. TensorFlow is not needed.
"""

import os
import threading
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from clap_jax.storage import locations, ranges, untrusted
from clap_jax.storage.framing import (
  FOOTER,
  HEADER,
  check_offsets,
  masked_crc32c,
)

MAX_RECORD_BYTES = 2 << 30
_MAX_SHARD_BYTES = 1 << 44


class CorruptRecordError(ValueError):
  """Raised for a damaged record; names the shard and the byte offset.

  Attributes:
    shard: path of the shard file, as text.
    offset: byte offset of the record in the shard.
    reason: description of the damage.
  """

  def __init__(self, shard: locations.PathLike, offset: int, reason: str):
    self.shard = str(shard)
    self.offset = int(offset)
    self.reason = reason
    super().__init__(
      f"corrupt record in {self.shard} at byte {self.offset}: {reason}; "
      "rebuild the dataset or copy the shard again"
    )


class ShardReader:
  """Reads records of a shard by number; thread-safe, one file descriptor.

  In a bucket only requested records are read, by one request each; with
  `copied` the shard is read once as a whole.

  Without the sidecar index, the record headers are scanned once.
  """

  def __init__(
    self,
    path: locations.PathLike,
    *,
    folder: locations.PathLike | None = None,
    max_record_bytes: int = MAX_RECORD_BYTES,
    copied: bool = False,
    size: int | None = None,
    offsets: np.ndarray | None = None,
  ):
    """Opens a shard and its index.

    Args:
      path: path of the shard, relative to `folder` if that is given.
      folder: see `untrusted.open_file`.
      max_record_bytes: maximum accepted length of a record.
      copied: whether to read an object as a whole instead of by ranges.
      size: size of an object, if known from a listing.
      offsets: uint64 offsets of the records, if known and verified.

    Raises:
      FileNotFoundError: the shard does not exist.
      UntrustedFileError: the shard or index is not a regular file within the
        folder.
      CorruptRecordError: the index does not match the shard or, without an
        index, a record header is damaged.
    """
    if isinstance(path, locations.ObjectPath):
      path, folder = path.name, path.parent
    self.path = locations.at(folder or "", path)
    self._name, self._folder = os.fspath(path), folder
    self._max_record_bytes = max_record_bytes
    self._lock = threading.Lock()
    self._descriptor: int | None = None
    self._ranged: locations.ObjectPath | None = None  # read by ranges
    if isinstance(self.path, locations.ObjectPath) and not copied:
      self._ranged = self.path
    if self._ranged is None:
      with self._open() as file:
        self._size = untrusted.size_of(file)
        if copied and locations.is_object(self.path):
          self._descriptor = os.dup(file.fileno())  # of the copy
    else:
      self._size = self.path.stat().st_size if size is None else size
    try:
      self.offsets = self._read_index() if offsets is None else offsets
    except FileNotFoundError:
      self.offsets = np.fromiter(self._scan(), dtype=np.uint64)

  @property
  def num_bytes(self) -> int:
    return self._size

  def __len__(self) -> int:
    return len(self.offsets)

  def read(self, number: int) -> bytes:
    """Reads the data of record `number` and verifies both checksums.

    Raises:
      IndexError: `number` is not in [0, len(self)).
      CorruptRecordError: the record is damaged or does not end where the next
        one begins.
    """
    if not 0 <= number < len(self):
      raise IndexError(
        f"record {number} of {self.path.name}, which has {len(self)} records"
      )
    offset = int(self.offsets[number])
    is_last = number + 1 == len(self)
    end = self._size if is_last else int(self.offsets[number + 1])
    if self._ranged is None:
      return self._read_record(offset, end, self._pread)
    try:
      return self._read_fetched(self._ranged, offset, end)
    except CorruptRecordError:
      # It may have been damaged in transfer.
      return self._read_fetched(self._ranged, offset, end)

  def read_ranges(self, spans: Sequence[tuple[int, int]]) -> list[bytes]:
    """Reads (offset, number of bytes) spans without verification.

    For an object each span is a request, all made concurrently.
    """
    if self._ranged is not None:
      return ranges.read_all(self._ranged, spans)
    return [self._pread(num_bytes, offset) for offset, num_bytes in spans]

  def _read_fetched(
    self, path: locations.ObjectPath, offset: int, end: int
  ) -> bytes:
    """Reads a record of an object in one request."""
    limit = HEADER.size + self._max_record_bytes + FOOTER.size
    record = ranges.read(path, offset, min(end - offset, limit))

    def read(num_bytes: int, start: int) -> bytes:
      return record[start - offset : start - offset + num_bytes]

    return self._read_record(offset, end, read)

  def _read_record(
    self, offset: int, end: int, read: Callable[[int, int], bytes]
  ) -> bytes:
    """Reads and verifies a record through `read` (number of bytes, offset)."""
    length = self._read_length(offset, read)
    expected = end - offset - HEADER.size - FOOTER.size
    if length != expected:
      raise self._error(
        offset, f"{length} bytes of data where the index has {expected}"
      )
    # Two reads: cutting the checksum off one would copy the data again.
    data = read(length, offset + HEADER.size)
    footer = read(FOOTER.size, offset + HEADER.size + length)
    if len(data) != length or len(footer) != FOOTER.size:
      raise self._error(offset, "the file ends inside the record")
    (stored,) = FOOTER.unpack(footer)
    if masked_crc32c(data) != stored:
      raise self._error(offset, "checksum of the data does not match")
    return data

  def close(self) -> None:
    with self._lock:
      if self._descriptor is not None:
        os.close(self._descriptor)
        self._descriptor = None

  def __del__(self):
    if getattr(self, "_descriptor", None) is not None:
      self.close()

  def corrupt(self, number: int, reason: str) -> CorruptRecordError:
    """Returns the error of a damaged record."""
    return self._error(int(self.offsets[number]), reason)

  def _error(self, offset: int, reason: str) -> CorruptRecordError:
    return CorruptRecordError(self.path, offset, reason)

  def _open(self):
    return untrusted.open_file(
      self._name, folder=self._folder, max_bytes=_MAX_SHARD_BYTES
    )

  def _pread(self, num_bytes: int, offset: int) -> bytes:
    if self._ranged is not None:
      return ranges.read(self._ranged, offset, num_bytes)
    with self._lock:
      if self._descriptor is None:
        with self._open() as file:
          self._descriptor = os.dup(file.fileno())
      descriptor = self._descriptor
    pieces = []
    while num_bytes:  # one pread returns at most 2 GiB on Linux
      piece = os.pread(descriptor, num_bytes, offset)
      if not piece:
        break
      pieces.append(piece)
      num_bytes -= len(piece)
      offset += len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)

  def _read_length(self, offset: int, read: Callable[[int, int], bytes]) -> int:
    """Reads and verifies a record's length before any allocation."""
    header = read(HEADER.size, offset)
    if len(header) != HEADER.size:
      raise self._error(offset, "the file ends inside the record header")
    length, stored = HEADER.unpack(header)
    if masked_crc32c(header[:8]) != stored:
      raise self._error(offset, "checksum of the length does not match")
    if length > self._max_record_bytes:
      raise self._error(
        offset,
        f"it claims {length} bytes, more than the limit of "
        f"{self._max_record_bytes}",
      )
    return length

  def _scan(self) -> Iterator[int]:
    offset = 0
    while offset < self._size:
      length = self._read_length(offset, self._pread)
      following = offset + HEADER.size + length + FOOTER.size
      if following > self._size:
        raise self._error(offset, "the file ends inside the record")
      yield offset
      offset = following

  def _read_index(self) -> np.ndarray:
    name = f"{self.path.name}.idx"
    # A record has 16 bytes at least, its entry eight.
    data = untrusted.read_bytes(
      f"{self._name}.idx", folder=self._folder, max_bytes=self._size // 2 + 8
    )
    if len(data) % 8:
      raise self._error(0, f"{name} has {len(data)} bytes, not 8*n")
    offsets = np.frombuffer(data, dtype="<u8").astype(np.uint64)
    try:
      check_offsets(offsets, num_bytes=self._size)
    except ValueError as error:
      raise self._error(0, f"{name} has {error}") from None
    return offsets
