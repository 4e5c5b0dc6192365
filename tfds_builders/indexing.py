"""Makes the index of a built dataset; see `clap_jax.storage.record_index`."""

import concurrent.futures
import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from tensorflow_datasets.proto import tf_example_pb2

from clap_jax.media import blocks
from clap_jax.media.errors import VideoError
from clap_jax.storage import (
  framing,
  locations,
  output,
  record_index,
  tfrecord,
)

_PARTS = ".indexing"  # folder of an unfinished index


class Indexed(NamedTuple):
  """Counts of the records of an indexed dataset, and errors."""

  records: int
  divided: int  # records whose clips can be read separately
  damaged: list[str]  # errors of records, which are not changed


def index_shard(
  shard: tfrecord.ShardReader,
) -> tuple[record_index.ShardIndex, list[str]]:
  """Reads a shard; returns its index and the errors of damaged records.

  A video that is damaged or cannot be divided gets no blocks.
  """
  records = np.zeros(len(shard), record_index.RECORD)
  records["offset"] = shard.offsets
  tables, damaged = [np.zeros(0, record_index.BLOCK)], []
  for number in range(len(shard)):
    try:
      data = shard.read(number)
      found = _blocks_of(data)
    except (tfrecord.CorruptRecordError, VideoError) as error:
      damaged.append(f"{shard.path.name}, record {number}: {error}")
      continue
    if found is not None:
      place, reach_sec, id_checksum, table = found
      offset = int(shard.offsets[number])
      start = offset + framing.HEADER.size + place
      records[number] = (offset, start, len(table), id_checksum, reach_sec)
      tables.append(table)
  index = record_index.ShardIndex(
    shard.path.name, shard.num_bytes, records, np.concatenate(tables)
  )
  return index, damaged


def _blocks_of(data: bytes) -> tuple[int, float, int, np.ndarray] | None:
  """Returns (offset of the video, reach in s, checksum of its id, blocks)."""
  try:
    fields = tf_example_pb2.Example.FromString(data).features.feature
    video = fields["video"].bytes_list.value[0]
    id_checksum = framing.masked_crc32c(fields["id"].bytes_list.value[0])
  except Exception as error:  # protobuf raises various errors
    raise VideoError(f"the record does not parse: {error}") from error
  divided = blocks.divide(video)
  if divided is None:
    return None
  table = np.zeros(len(divided.ends), record_index.BLOCK)
  table["num_bytes"] = np.diff(divided.ends, prepend=0)
  table["start_sec"] = divided.start_sec
  start = 0
  for number, end in enumerate(divided.ends.tolist()):
    table["checksum"][number] = framing.masked_crc32c(video[start:end])
    start = end
  return data.find(video), divided.reach_sec, id_checksum, table


def index_dataset(
  directory: locations.Location,
  shards: Sequence[tfrecord.ShardReader],
  *,
  on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Indexed:
  """Writes the index of a dataset atomically.

  The parts of finished shards are kept until then: after a kill, the same call
  resumes.
  """
  parts = output.make_folder(directory / _PARTS, folder=directory)

  def part_of(shard: tfrecord.ShardReader):
    name = f"{shard.path.name}.part"
    try:
      index = record_index.read(parts, name)[shard.path.name]
      if index.num_bytes == shard.num_bytes:
        return index, []
    except (ValueError, LookupError, FileNotFoundError):
      pass  # missing or damaged
    index, damaged = index_shard(shard)
    if not damaged:
      content = record_index.to_bytes([index])
      output.write_bytes(parts / name, content, folder=directory)
    return index, damaged

  indices, damaged = [], []
  with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    for done, (index, errors) in enumerate(pool.map(part_of, shards), 1):
      indices.append(index)
      damaged += errors
      on_progress(done, len(shards))
  content = record_index.to_bytes(indices)
  output.write_bytes(directory / record_index.FILE, content, folder=directory)
  output.remove_tree(parts)
  return Indexed(
    sum(len(index.records) for index in indices),
    int(sum(np.sum(index.records["num_blocks"] > 0) for index in indices)),
    damaged,
  )
