"""Damaged, foreign and moved records; positions of large data; memory."""

import shutil

import numpy as np
import pytest

from clap_jax.data import records
from clap_jax.storage import tfrecord
from tests.benchmarks import input_pipeline
from tests.data import built_dataset

NUM_DAMAGES = 200
NUM_INDEXED = 1_000_000
NUM_DECODED = 10_000

pytestmark = pytest.mark.faults


def write_metadata(directory):
  """Beside the shards, as a builder does: the records without videos."""
  spec = built_dataset.features()
  examples = [built_dataset.make_example(n) | {"video": b""} for n in range(6)]
  built_dataset.write_shard(
    directory / "train" / records.METADATA_FILE,
    [spec.serialize_example(spec.encode_example(e)) for e in examples],
  )


@pytest.fixture(scope="module")
def built(tmp_path_factory):
  """A dataset whose records all have one size, so that swaps fit."""
  root = tmp_path_factory.mktemp("built")
  directory = built_dataset.write_dataset(root)
  write_metadata(directory)
  spec = built_dataset.features()
  for shard in range(2):
    same = built_dataset.make_example(0)
    built_dataset.write_shard(
      directory / f"toy-train.tfrecord-{shard:05d}-of-00002",
      [
        spec.serialize_example(
          spec.encode_example(same | {"id": f"video_{3 * shard + k:03d}"})
        )
        for k in range(3)
      ],
    )
  return root


def damage(path, kind, rng):
  data = bytearray(path.read_bytes())
  place = int(rng.integers(len(data)))
  size = len(data) // 3  # of a record
  if kind == "flip":
    data[place] ^= 1 << int(rng.integers(8))
  elif kind == "truncate":
    del data[place:]
  elif kind == "zero":
    data[place : place + 64] = bytes(len(data[place : place + 64]))
  else:
    first, second = sorted(rng.permutation(3)[:2].tolist())
    one = data[first * size : (first + 1) * size]
    data[first * size : (first + 1) * size] = data[
      second * size : (second + 1) * size
    ]
    data[second * size : (second + 1) * size] = one
  path.write_bytes(data)


def read_all(root):
  """(ids that were read, what was said of the others)."""
  found, said = [], []
  try:
    source = records.open_dataset(root, "toy/small").split("train")
  except ValueError as error:
    return found, [error]
  source.metadata()
  for index in range(len(source)):
    try:
      found.append((index, source[index].id))
    except tfrecord.CorruptRecordError as error:
      said.append(error)
  source.close()
  return found, said


@pytest.mark.parametrize("kind", ["flip", "truncate", "zero", "swap"])
def test_damaged_records_are_named(built, tmp_path, kind, figure):
  rng, detected, named, wrong, undone = np.random.default_rng(0), 0, 0, 0, 0
  for number in range(NUM_DAMAGES):
    root = tmp_path / str(number)
    shutil.copytree(built, root)
    shard = root / "toy/small/1.0.0/toy-train.tfrecord-00001-of-00002"
    before = shard.read_bytes()
    damage(shard, kind, rng)
    if shard.read_bytes() == before:  # zeros over zeros
      undone += 1
      continue
    found, said = read_all(root)
    detected += bool(said)
    named += any(shard.name in str(error) for error in said)
    wrong += sum(name != f"video_{index:03d}" for index, name in found)
    shutil.rmtree(root)
  done = NUM_DAMAGES - undone
  figure(
    f"#19 {done} times a record {kind}",
    f"{detected} detected, {named} with the shard, {wrong} wrong records read",
    f"{done}, {done}, 0",
  )
  assert (detected, named, wrong) == (done, done, 0)


def test_shards_that_do_not_belong_are_refused(built, tmp_path, figure):
  def missing(directory):
    (directory / "toy-train.tfrecord-00000-of-00002").unlink()

  def extra(directory):
    shutil.copy(
      directory / "toy-train.tfrecord-00000-of-00002",
      directory / "toy-train.tfrecord-00002-of-00003",
    )

  def shorter(directory):
    name = "toy-train.tfrecord-00000-of-00002"
    built_dataset.write_shard(directory / name, [b"x"])

  def foreign(directory):
    """As many records, of another build, whose ids differ."""
    shutil.copy(
      directory / "toy-train.tfrecord-00000-of-00002",
      directory / "toy-train.tfrecord-00001-of-00002",
    )

  refused = {}
  for change in (missing, extra, shorter, foreign):
    root = tmp_path / change.__name__
    shutil.copytree(built, root)
    change(root / "toy/small/1.0.0")
    _, said = read_all(root)
    refused[change.__name__] = bool(said)
  figure("#20 shards that do not belong, refused", refused, "all")
  assert all(refused.values())


def test_any_place_of_a_million(tmp_path, figure):
  """The benchmark asserts that the next record is the very one."""
  (row,) = input_pipeline.measure_resume(tmp_path, count=NUM_INDEXED)
  figure(
    "#12 " + row["name"],
    f"{row['value']:.3f} {row['unit']}, exact at 10 of 10",
    f"{row['goal']} s",
  )


def test_memory_over_many_videos(figure):
  (row,) = input_pipeline.measure_memory(videos=NUM_DECODED)
  figure(
    "#30 " + row["name"], f"{row['value']:.1f} %", f"at most {row['goal']} %"
  )
  assert row["value"] <= row["goal"]
