"""Datasets in a bucket: the same examples, by one request per record."""

import numpy as np
import pytest

from clap_jax import main
from clap_jax.data import records as records_lib
from clap_jax.data.clip_source import FrameLoader, FrameOptions
from clap_jax.data.clips import ClipItem
from clap_jax.storage import locations, output
from clap_jax.storage.tfrecord import CorruptRecordError, ShardReader


@pytest.fixture
def remote(bucket, data_dir):
  """The address of a copy of the built dataset."""
  root = locations.at(bucket.url, "data")
  for path in sorted(data_dir.rglob("*")):
    if path.is_file():
      output.copy(path, root / path.relative_to(data_dir).as_posix())
  return root


def same(one, other):
  for name, value in vars(one).items():
    np.testing.assert_array_equal(
      np.asarray(value, object), np.asarray(vars(other)[name], object)
    )


def test_examples_are_those_of_the_local_dataset(remote, dataset, records):
  opened = records_lib.open_dataset(str(remote), "toy/small")
  source = opened.split("train")
  assert opened.label_names == dataset.label_names
  assert source.shard_lengths == records.shard_lengths
  assert opened.manifest("train") == dataset.manifest("train")
  for index in range(len(records)):
    same(source[index], records[index])
  for one, other in zip(
    source.metadata().examples, records.metadata().examples, strict=True
  ):
    same(one, other)


def test_a_record_takes_one_request_of_its_size(bucket, remote):
  source = records_lib.open_dataset(str(remote), "toy/small").split("train")
  shard, number = source.locate(4)
  end = (*shard.offsets.tolist(), shard.num_bytes)
  with bucket.counted() as requests:
    _ = source[4]
  [request] = requests
  assert request.num_bytes == end[number + 1] - end[number]


def test_an_index_saves_requests_and_bytes(bucket, remote, data_dir):
  arguments = ["data", "upgrade", "toy/small", f"--data_dir={remote}"]
  assert main.main(arguments) == 0
  with bucket.counted() as requests:
    source = records_lib.open_dataset(str(remote), "toy/small").split("train")
  assert len(requests) <= 5  # for any number of shards, but for long lists
  assert not any(".idx" in request.path for request in requests)
  local = records_lib.open_dataset(data_dir, "toy/small").split("train")
  options = FrameOptions(num_frames=8, size=32)
  item = ClipItem(record_index=4, start_sec=3.0, end_sec=4.0, is_action=False)
  expected = FrameLoader(local, options).frames(item)
  loader = FrameLoader(source, options)
  with bucket.counted() as requests:
    np.testing.assert_array_equal(loader.frames(item), expected)
  # The header is at the end of these, so that it is a range of its own.
  assert len(requests) == 2
  assert sum(r.num_bytes for r in requests) < 0.4 * len(local[4].video)
  with bucket.failing(share_of_503=0.1, share_cut=0.1):
    np.testing.assert_array_equal(loader.frames(item), expected)


def test_a_faulty_network_changes_nothing(bucket, remote, records):
  source = records_lib.open_dataset(str(remote), "toy/small").split("train")
  with bucket.failing(share_of_503=0.1, share_cut=0.1):
    for index in range(len(records)):
      same(source[index], records[index])


def test_damage_and_absence_are_named(remote):
  with pytest.raises(records_lib.DatasetError, match=r"toy/small"):
    records_lib.open_dataset(str(remote), "other")
  source = records_lib.open_dataset(str(remote), "toy/small").split("train")
  shard, _ = source.locate(0)
  copied = ShardReader(shard.path, copied=True)
  content = bytearray(copied.read(0))
  assert source[0].video in content
  whole = bytearray(shard.path.info().size)
  whole[: 1 << 3] = b"\1" * 8
  output.write_bytes(shard.path, bytes(whole))
  with pytest.raises(CorruptRecordError, match=r"gs://.*at byte 0"):
    _ = source[0]
  shard.path.unlink()
  with pytest.raises(records_lib.DatasetError, match="missing"):
    records_lib.open_dataset(str(remote), "toy/small").split("train")
