"""Reads and writes the index of a built dataset: all record offsets.

`records.index` is stored next to the shards. With it, a dataset opens without a
request per shard, and parts of a video are read and verified separately: each
video is divided into blocks at key frames, and every block has a checksum. The
index can be recomputed from the shards; a dataset without it is read by whole
records.
"""

import dataclasses
import functools
import json
from collections.abc import Iterable

import numpy as np

from clap_jax.storage import framing, locations, untrusted

FILE = "records.index"
_FORMAT = 1
_MAX_BYTES = 4 << 30
# A record that has no blocks is read as a whole.
RECORD = np.dtype(
  [
    ("offset", "<u8"),  # of the record in the shard
    ("video", "<u8"),  # of its first block in the shard
    ("num_blocks", "<u4"),
    ("id_checksum", "<u4"),  # masked CRC32C of the video's id
    ("reach_sec", "<f4"),  # see `ShardIndex.wanted_blocks`
  ]
)
BLOCK = np.dtype(
  [
    ("num_bytes", "<u4"),
    ("checksum", "<u4"),  # masked CRC32C
    ("start_sec", "<f4"),  # of its key frame; NaN: read on opening the video
  ]
)
_ROUNDING_SEC = 1e-3  # of times in float32


@dataclasses.dataclass(frozen=True)
class ShardIndex:
  """Records of a shard and the blocks of their videos."""

  name: str
  num_bytes: int
  records: np.ndarray  # of RECORD
  blocks: np.ndarray  # of BLOCK; those of all records, one after the other

  def __post_init__(self):
    """Raises a ValueError if the tables are inconsistent."""
    framing.check_offsets(self.records["offset"], num_bytes=self.num_bytes)
    if self._first_block[-1] != len(self.blocks):
      raise ValueError("it has another number of blocks than its records state")
    self._check_blocks()

  @functools.cached_property
  def _first_block(self) -> np.ndarray:
    """Returns the first block number of each record, and the total."""
    return np.append(0, np.cumsum(self.records["num_blocks"], dtype=np.int64))

  def _check_blocks(self) -> None:
    has_blocks = self.records["num_blocks"] > 0
    ends = np.cumsum(self.blocks["num_bytes"], dtype=np.uint64)
    video_bytes = np.diff(np.append(np.uint64(0), ends)[self._first_block])
    starts = self.records["video"]
    data = self.records["offset"] + np.uint64(framing.HEADER.size)
    ends = np.append(self.records["offset"][1:], np.uint64(self.num_bytes))
    is_inside = (
      (starts >= data)
      & (starts < self.num_bytes)
      & (starts + video_bytes + np.uint64(framing.FOOTER.size) <= ends)
    )
    if not is_inside[has_blocks].all() or not self.blocks["num_bytes"].all():
      raise ValueError("its blocks are not within their records")

  def blocks_of(self, number: int) -> np.ndarray:
    """Returns the video blocks of a record, of dtype BLOCK."""
    first, end = self._first_block[number : number + 2]
    return self.blocks[first:end]

  def wanted_blocks(
    self, number: int, *, start_sec: float, last_sec: float
  ) -> np.ndarray:
    """Returns the blocks needed to decode the frames nearest to instants.

    A block spans from its key frame to that of the next one. The frame before a
    block may be decoded up to `reach_sec` before the block begins.
    """
    start = self.blocks_of(number)["start_sec"]
    end = np.nan_to_num(np.append(start[1:], np.inf), nan=np.inf)
    reach_sec = float(self.records["reach_sec"][number]) + _ROUNDING_SEC
    return np.isnan(start) | (
      (end > start_sec - _ROUNDING_SEC) & (start < last_sec + reach_sec)
    )


def to_bytes(shards: Iterable[ShardIndex]) -> bytes:
  """Serializes a JSON line, the tables of all shards, and a checksum."""
  shards = list(shards)
  facts = [
    [shard.name, shard.num_bytes, len(shard.records), len(shard.blocks)]
    for shard in shards
  ]
  line = json.dumps({"format": _FORMAT, "shards": facts}) + "\n"
  tables = [table for s in shards for table in (s.records, s.blocks)]
  content = b"".join([line.encode(), *(table.tobytes() for table in tables)])
  return content + framing.FOOTER.pack(framing.masked_crc32c(content))


def parse(content: bytes) -> dict[str, ShardIndex]:
  """Parses the output of `to_bytes`; returns shards by name.

  Raises:
    ValueError: the data is damaged, or of another format.
  """
  body, footer = (
    content[: -framing.FOOTER.size],
    content[-framing.FOOTER.size :],
  )
  if footer != framing.FOOTER.pack(framing.masked_crc32c(body)):
    raise ValueError("its checksum does not match")
  line, _, tables = body.partition(b"\n")
  facts = untrusted.parse_json(line.decode("utf-8"), name="its first line")
  if not isinstance(facts, dict) or facts.get("format") != _FORMAT:
    raise ValueError(f"it is not of format {_FORMAT}")
  found, place = {}, 0
  for entry in facts["shards"]:
    name, num_bytes, num_records, num_blocks = entry
    if not isinstance(name, str) or not all(
      type(count) is int and 0 <= count < 1 << 48 for count in entry[1:]
    ):
      raise ValueError(f"its entry {entry!r:.100} is not that of a shard")
    records = np.frombuffer(tables, RECORD, num_records, place)
    place += records.nbytes
    blocks = np.frombuffer(tables, BLOCK, num_blocks, place)
    place += blocks.nbytes
    found[name] = ShardIndex(name, num_bytes, records, blocks)
  if place != len(tables):
    raise ValueError("it has more bytes than its shards")
  return found


def read(folder: locations.Location, name: str = FILE) -> dict[str, ShardIndex]:
  """Reads the index of a dataset, by shard name.

  Raises:
    FileNotFoundError: the dataset has no index.
    UntrustedFileError: it is not a regular file, damaged, or of another format.
  """
  content = untrusted.read_bytes(name, folder=folder, max_bytes=_MAX_BYTES)
  try:
    return parse(content)
  except (ValueError, KeyError, TypeError) as error:
    raise untrusted.UntrustedFileError(
      f"{folder / name} is damaged: {error}; `clap data upgrade` recreates it"
    ) from error
