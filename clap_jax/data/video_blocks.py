"""Reads only those blocks of a record's video that are decoded."""

import bisect
import contextlib
import io
import os
from collections.abc import Iterator

import numpy as np

from clap_jax.media.errors import VideoError
from clap_jax.storage.framing import masked_crc32c
from clap_jax.storage.record_index import ShardIndex
from clap_jax.storage.tfrecord import CorruptRecordError, ShardReader

# FFmpeg reads ahead instead of seeking over shorter distances.
_READ_THROUGH_BYTES = 32 << 10


class VideoBlocks(io.BufferedIOBase):
  """A file view of a record's video, verified block by block.

  A block that the decoder needs and that was not prefetched is read on demand,
  so that a wrong plan costs a request but no frame.

  Attributes:
    failure: the error of a read inside the decoder, which reports it
      differently or not at all.
  """

  def __init__(self, shard: ShardReader, index: ShardIndex, number: int):
    """Creates the file; `number` is the record's number in its shard."""
    self._shard = shard
    self._index, self._number = index, number
    self._start = int(index.records["video"][number])
    self._offset = int(index.records["offset"][number])
    blocks = index.blocks_of(number)
    self._checksums = blocks["checksum"].tolist()
    sizes = blocks["num_bytes"].astype(np.int64)
    self._bounds = [0, *np.cumsum(sizes).tolist()]
    self._content: dict[int, memoryview] = {}
    self._position = 0
    self._num_ahead = 1
    self.failure: Exception | None = None

  def load(self, *, start_sec: float, last_sec: float) -> None:
    """Reads the blocks of the frames nearest to instants between two times.

    Adjacent blocks are read by one request.

    Raises:
      CorruptRecordError: a checksum does not match, even after a retry.
      ObjectStorageError: the bucket did not deliver them.
    """
    wanted = self._index.wanted_blocks(
      self._number, start_sec=start_sec, last_sec=last_sec
    )
    spans: list[list[int]] = []
    for number in np.flatnonzero(wanted).tolist():
      gap = self._bounds[number] - self._bounds[spans[-1][1]] if spans else 0
      if spans and gap <= _READ_THROUGH_BYTES:
        spans[-1][1] = number + 1
      else:
        spans.append([number, number + 1])
    self._fetch(spans)

  @contextlib.contextmanager
  def raising_failures(self) -> Iterator[None]:
    """Raises an error of a read in place of the decoder's VideoError."""
    try:
      yield
    except VideoError:
      if self.failure is not None:
        raise self.failure from None
      raise

  def _fetch(self, spans: list[list[int]]) -> None:
    try:
      self._fetch_once(spans)
    except CorruptRecordError:
      # It may have been damaged in transfer.
      self._fetch_once(spans)

  def _fetch_once(self, spans: list[list[int]]) -> None:
    bounds = self._bounds
    pieces = self._shard.read_ranges(
      [
        (self._start + bounds[first], bounds[end] - bounds[first])
        for first, end in spans
      ]
    )
    for (first, end), piece in zip(spans, pieces, strict=True):
      view = memoryview(piece)
      for number in range(first, end):
        start, stop = (bounds[n] - bounds[first] for n in (number, number + 1))
        content = view[start:stop]
        if masked_crc32c(content) != self._checksums[number]:
          raise CorruptRecordError(
            self._shard.path,
            self._offset,
            f"checksum of block {number} of its video does not match",
          )
        self._content[number] = content

  def read(self, size: int | None = -1, /) -> bytes:
    """Reads up to `size` bytes of one block; a negative size reads all."""
    if size is None or size < 0:
      return b"".join(iter(lambda: self.read(1 << 30), b""))
    if self._position >= self._bounds[-1]:
      return b""
    number = bisect.bisect_right(self._bounds, self._position) - 1
    if number not in self._content:
      # Grows if the decoder reads on sequentially.
      end = min(number + self._num_ahead, len(self._checksums))
      self._num_ahead *= 2
      try:
        self._fetch([[number, end]])
      except Exception as error:
        self.failure = error
        raise
    start = self._position - self._bounds[number]
    content = bytes(self._content[number][start : start + size])
    self._position += len(content)
    return content

  def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
    base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position}
    self._position = max(0, base.get(whence, self._bounds[-1]) + offset)
    return self._position

  def tell(self) -> int:
    return self._position

  def readable(self) -> bool:
    return True

  def seekable(self) -> bool:
    return True
