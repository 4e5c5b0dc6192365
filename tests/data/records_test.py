"""Damage is named, never passed on; directories are checked when opened."""

import shutil
import struct

import numpy as np
import pytest

from clap_jax.data.records import DatasetError, open_dataset
from clap_jax.storage.framing import frame_record, masked_crc32c
from clap_jax.storage.tfrecord import CorruptRecordError, ShardReader
from tests.data import built_dataset


def test_examples_are_what_was_written(dataset, records):
  assert dataset.label_names == built_dataset.LABEL_NAMES
  assert dataset.splits == ("train",)
  assert dataset.manifest("train")["present"] == 6
  assert len(records) == 6 and records.shard_lengths == [3, 3]
  for index in range(6):
    expected = built_dataset.make_example(index)
    example = records[index]
    assert example.index == index and example.id == expected["id"]
    assert example.video == expected["video"]
    spans = [(s["start_sec"], s["end_sec"]) for s in expected["segments"]]
    np.testing.assert_array_equal(example.segments, np.float32(spans))
    labels = [segment["label"] for segment in expected["segments"]]
    np.testing.assert_array_equal(example.labels, labels)
    assert example.segments.dtype == np.float32
    assert example.labels.dtype == np.int32
    texts = [caption["text"] for caption in expected["captions"]]
    assert [caption[2] for caption in example.captions] == texts
    assert example.background.shape == (3, 2)
  table = records.metadata()
  assert [info.id for info in table.examples] == [
    f"video_{number:03d}" for number in range(6)
  ]
  assert not hasattr(table.examples[0], "video")


def test_example_without_annotations(tmp_path):
  spec = built_dataset.features()
  example = built_dataset.make_example(0)
  example |= {"segments": [], "captions": [], "background": []}
  directory = built_dataset.write_dataset(tmp_path, num_videos=1, num_shards=1)
  data = spec.serialize_example(spec.encode_example(example))
  shard = directory / "toy-train.tfrecord-00000-of-00001"
  built_dataset.write_shard(shard, [data])
  read = open_dataset(tmp_path, "toy/small").split("train")[0]
  assert read.segments.shape == (0, 2) and read.labels.shape == (0,)
  assert read.captions == () and read.background.shape == (0, 2)


def test_known_checksum():
  # CRC32C of 32 zero bytes is 0x8A9136AA (RFC 3720, B.4).
  crc = 0x8A9136AA
  expected = (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
  assert masked_crc32c(bytes(32)) == expected


def _write_damaged(path, data: bytes, offsets) -> None:
  path.write_bytes(data)
  index = path.with_name(path.name + ".idx")
  index.write_bytes(np.asarray(offsets, "<u8").tobytes())


@pytest.mark.parametrize("has_index", [True, False])
def test_every_damage_is_detected_and_named(tmp_path, has_index):
  rng = np.random.default_rng(0)
  records = [rng.bytes(int(size)) for size in rng.integers(50, 900, 5)]
  framed = [frame_record(record) for record in records]
  offsets = np.cumsum([0, *map(len, framed)])
  whole = b"".join(framed)
  for case in range(240):
    data = bytearray(whole)
    place = int(rng.integers(len(whole)))
    kind = ("flip", "truncate", "zero", "swap")[case % 4]
    if kind == "flip":
      data[place] ^= 1 << int(rng.integers(8))
    elif kind == "truncate":
      data = data[:place]
    elif kind == "zero":
      data[place : place + 16] = bytes(len(data[place : place + 16]))
    else:
      data[place : place + 1] = b""  # a lost byte shifts all that follows
      data += b"x"
    if bytes(data) == whole:
      continue
    path = tmp_path / f"case{case}.tfrecord-00000-of-00001"
    path.write_bytes(bytes(data))
    if has_index:
      _write_damaged(path, bytes(data), offsets[:-1])
    hit = int(np.searchsorted(offsets, place, side="right")) - 1
    errors, read = [], []
    try:
      reader = ShardReader(path)
      for number in range(len(reader)):
        try:
          read.append(reader.read(number))
        except CorruptRecordError as error:
          errors.append(error)
      reader.close()
    except CorruptRecordError as error:
      errors.append(error)
    # A cut at a record's end leaves a shorter, valid file: only the number of
    # records, which the split checks, can tell.
    if not errors:
      assert not has_index and place in offsets and kind == "truncate"
      assert len(read) < len(records)
      continue
    assert all(record in records for record in read)
    assert all(path.name in str(error) for error in errors)
    if has_index and kind == "flip":
      assert [error.offset for error in errors] == [offsets[hit]]
      assert len(read) == len(records) - 1


def test_forged_length_is_refused_before_allocation(tmp_path):
  length = struct.pack("<Q", 1 << 60)
  header = length + struct.pack("<I", masked_crc32c(length))
  path = tmp_path / "a.tfrecord"
  path.write_bytes(header + bytes(100))
  with pytest.raises(CorruptRecordError, match="more than the limit"):
    ShardReader(path)
  _write_damaged(path, header + bytes(100), [0])
  with pytest.raises(CorruptRecordError, match="more than the limit"):
    ShardReader(path).read(0)


def test_metadata_skips_and_names_a_damaged_record(tmp_path):
  directory = built_dataset.write_dataset(tmp_path)
  shard = directory / "toy-train.tfrecord-00001-of-00002"
  data = bytearray(shard.read_bytes())
  data[500] ^= 4
  shard.write_bytes(bytes(data))
  source = open_dataset(tmp_path, "toy/small").split("train")
  with pytest.raises(CorruptRecordError, match="00001-of-00002 at byte 0"):
    source.metadata()
  table = source.metadata(on_corrupt="skip")
  assert [info.index for info in table.examples] == [0, 1, 2, 4, 5]
  assert table.corrupt[0].shard == str(shard)


def test_missing_extra_and_foreign_shards_are_refused(tmp_path):
  directory = built_dataset.write_dataset(tmp_path)
  shard = directory / "toy-train.tfrecord-00001-of-00002"
  other = directory / "toy-train.tfrecord-00000-of-00003"
  shutil.copy(shard, other)
  with pytest.raises(DatasetError, match="00000-of-00003"):
    open_dataset(tmp_path, "toy/small").split("train")
  other.unlink()
  built_dataset.write_shard(shard, [b"x"])
  with pytest.raises(DatasetError, match=r"\[3, 1\].*\[3, 3\]"):
    open_dataset(tmp_path, "toy/small").split("train")
  shard.unlink()
  with pytest.raises(DatasetError, match=r"missing \['toy-train"):
    open_dataset(tmp_path, "toy/small").split("train")


def test_newest_version_and_names(tmp_path, data_dir):
  for version in ("1.9.0", "1.10.0"):
    built_dataset.write_dataset(
      tmp_path, num_videos=1, num_shards=1, version=version
    )
  (tmp_path / "toy/small/2.0.0").mkdir()  # a build that never finished
  assert open_dataset(tmp_path, "toy/small").directory.name == "1.10.0"
  older = open_dataset(tmp_path, "toy/small:1.9.0")
  assert older.directory.name == "1.9.0"
  with pytest.raises(DatasetError, match="there is toy/small"):
    open_dataset(data_dir, "motion_sprites/demo")
  for name in ("../toy/small", "/toy", "toy/../toy/small", "", "toy/small:x"):
    with pytest.raises(DatasetError, match="not a dataset name"):
      open_dataset(data_dir, name)
  with pytest.raises(DatasetError, match="choose from train"):
    open_dataset(data_dir, "toy/small").split("test")
  with pytest.raises(DatasetError, match="choose from slides"):
    open_dataset(data_dir, "toy/small").class_ids(["jumps"])
