"""Batches depend on (seed, step) alone, whatever the hosts and threads."""

import dataclasses
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from clap_jax.data.augment import AugmentOptions, augment_clip
from clap_jax.data.clip_source import (
  ClipSource,
  EvaluationClipSource,
  FrameLoader,
  FrameOptions,
  RecordsLocation,
)
from clap_jax.data.clips import ClipSampler, Sampling, caption_clips
from clap_jax.data.frame_cache import FrameCache
from clap_jax.data.pipeline import evaluation_batches, training_batches
from clap_jax.data.records import open_dataset
from clap_jax.media.errors import VideoError
from clap_jax.types import ClipBatch
from tests.data import built_dataset

AUGMENT = AugmentOptions(shift_px=3, brightness=0.1, contrast=0.2, colour=0.1)


def make_source(dataset, records, tokenizer, *, cache=None):
  infos = records.metadata(on_corrupt="skip").examples
  sampler = ClipSampler(
    infos, Sampling(), clip_sec=1.0, label_names=dataset.label_names
  )
  loader = FrameLoader(
    records,
    FrameOptions(num_frames=4, size=16),
    augment=AUGMENT,
    cache=cache,
    infos=infos,
  )
  return ClipSource(
    sampler,
    loader,
    tokenizer=tokenizer,
    text_length=10,
    place=RecordsLocation(str(dataset.directory), dataset.name, "train"),
  )


def take(source, count: int, **options) -> list[ClipBatch]:
  options = {"batch_size": 8, "seed": 3} | options
  with training_batches(source, **options) as batches:
    return [next(batches) for _ in range(count)]


def flatten(batch: ClipBatch) -> list[np.ndarray]:
  return [batch.frames, batch.tokens, batch.token_mask, *batch.pairs]


def assert_equal(first: ClipBatch, second: ClipBatch) -> None:
  for a, b in zip(flatten(first), flatten(second), strict=True):
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(a, b)


@pytest.fixture
def source(dataset, records, tokenizer):
  return make_source(dataset, records, tokenizer)


def test_batch_shapes_and_types(source):
  (batch,) = take(source, 1)
  assert batch.frames.shape == (8, 4, 16, 16, 3)
  assert batch.frames.dtype == np.uint8 and batch.frames.std() > 5
  assert batch.tokens.shape == (8, 10) and batch.token_mask.any(axis=1).all()
  pairs = batch.pairs
  assert pairs.valid.all() and pairs.is_action.sum() == 4
  np.testing.assert_array_equal(pairs.has_text, pairs.text_id >= 0)
  np.testing.assert_array_equal(pairs.is_action, pairs.class_id >= 0)
  for name in ("text_id", "class_id", "video_id"):
    assert getattr(pairs, name).dtype == np.int32


def test_threads_cache_and_resume_change_nothing(
  source, dataset, records, tokenizer
):
  expected = take(source, 6, num_threads=0)
  for other in (
    take(source, 6, num_threads=2),
    take(source, 2, start_step=0) + take(source, 4, start_step=2),
    take(
      make_source(dataset, records, tokenizer, cache=FrameCache(50)),
      6,
      num_threads=3,
    ),
  ):
    for a, b in zip(expected, other, strict=True):
      assert_equal(a, b)
  far = take(source, 1, start_step=10**9)  # at once, nothing replayed
  assert far[0].pairs.valid.all()
  (other_seed,) = take(source, 1, seed=4)
  assert not np.array_equal(other_seed.frames, expected[0].frames)


def test_hosts_share_the_global_batch(source):
  expected = take(source, 3)
  for rows in ((4, 5, 6, 7), (0, 1, 6, 7), (3,)):
    host = take(source, 3, rows=rows)
    for step, batch in enumerate(expected):
      for a, b in zip(flatten(batch), flatten(host[step]), strict=True):
        np.testing.assert_array_equal(a[list(rows)], b)
  with pytest.raises(ValueError, match="rows"):
    take(source, 1, rows=(8,))


def test_tsp_cuts_at_random_in_training_and_the_centre_else(records):
  infos = records.metadata().examples
  items = caption_clips(infos, clip_sec=1.0)
  shape = {"num_frames": 4, "size": 14, "mode": "tsp"}
  centre = FrameLoader(records, FrameOptions(**shape))
  whole = FrameLoader(records, FrameOptions(**shape | {"mode": "tsp_whole"}))
  cuts = set()
  for cache in (None, FrameCache(64.0)):
    training = FrameLoader(
      records, FrameOptions(**shape, random_cut=True), cache=cache, infos=infos
    )
    for seed, planned in enumerate(items):
      item = dataclasses.replace(planned, seed=seed)
      pixels = whole.frames(item)
      assert pixels.shape == (4, 16, 21, 3)
      np.testing.assert_array_equal(centre.frames(item), pixels[:, 1:15, 3:17])
      frames = training.frames(item)
      places = [
        (top, left)
        for top in range(3)
        for left in range(8)
        if np.array_equal(frames, pixels[:, top : top + 14, left : left + 14])
      ]
      assert places, "the cut is no part of the frame"
      cuts.update(places[:1])
  assert len(cuts) > 3


@pytest.mark.parametrize("process_count", [1, 2, 4])
def test_evaluation_visits_everything_once(records, tokenizer, process_count):
  infos = records.metadata().examples
  items = caption_clips(infos, clip_sec=1.0)
  loader = FrameLoader(records, FrameOptions(num_frames=4, size=16))
  source = EvaluationClipSource(
    items, loader, tokenizer=tokenizer, text_length=10
  )
  assert len(items) % 8, "the last batch should need padding"
  seen, counts = [], set()
  for index in range(process_count):
    with evaluation_batches(
      source, batch_size=8, rows=range(8)[index::process_count]
    ) as batches:
      local = list(batches)
    counts.add(len(local))
    for batch in local:
      assert batch.frames.shape == (8 // process_count, 4, 16, 16, 3)
      pairs = batch.pairs
      rows = zip(pairs.video_id, pairs.clip_start_sec, strict=True)
      seen += [row for row, ok in zip(rows, pairs.valid, strict=True) if ok]
  expected = [(i.record_index, np.float32(i.start_sec)) for i in items]
  assert sorted(seen) == sorted(expected) and len(counts) == 1


def test_bad_record_is_skipped_counted_and_named(tmp_path, tokenizer):
  directory = built_dataset.write_dataset(tmp_path)
  dataset = open_dataset(tmp_path, "toy/small")
  records = dataset.split("train")
  source = make_source(dataset, records, tokenizer)
  shard = directory / "toy-train.tfrecord-00001-of-00002"
  data = bytearray(shard.read_bytes())
  data[500] ^= 1  # after the metadata was read
  shard.write_bytes(bytes(data))
  first, second = take(source, 5), take(source, 5, num_threads=3)
  for a, b in zip(first, second, strict=True):
    assert a.pairs.valid.all() and 3 not in a.pairs.video_id
    assert_equal(a, b)
  assert list(source.bad_records.reasons) == ["record 3"]
  assert "00001-of-00002 at byte 0" in source.bad_records.reasons["record 3"]


def test_nothing_but_bad_records_is_an_error_that_names_the_last(
  tmp_path, tokenizer
):
  directory = built_dataset.write_dataset(tmp_path)
  dataset = open_dataset(tmp_path, "toy/small")
  source = make_source(dataset, dataset.split("train"), tokenizer)
  for shard in directory.glob("toy-train.tfrecord-*"):
    shard.write_bytes(bytes(byte ^ 1 for byte in shard.read_bytes()))
  with pytest.raises(VideoError, match=r"20 unreadable records in a row.*byte"):
    source.item(0, seed=3)


def test_closing_stops_the_threads(source):
  before = threading.active_count()
  batches = training_batches(source, batch_size=4, seed=0, num_threads=2)
  next(batches)
  batches.close()
  batches.close()
  deadline = time.monotonic() + 60
  while threading.active_count() > before and time.monotonic() < deadline:
    time.sleep(0.01)
  assert threading.active_count() <= before
  with pytest.raises(StopIteration):
    next(batches)


def test_exit_with_an_open_iterator_is_quiet():
  code = """
import numpy as np
from clap_jax.data.pipeline import training_batches
class Numbers:
  def item(self, index, *, seed): return index
  def collate(self, items, *, batch_size): return np.array(items)
batches = training_batches(Numbers(), batch_size=2, seed=0)
print(next(batches))
"""
  result = subprocess.run(
    [sys.executable, "-c", code],
    capture_output=True,
    text=True,
    timeout=300,
    check=False,
  )
  assert result.returncode == 0 and result.stdout.strip() == "[0 1]"
  assert "Traceback" not in result.stderr


def test_augmentation():
  rng = np.random.default_rng(0)
  frames = rng.integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
  same = augment_clip(frames, AugmentOptions(), seed=1)
  np.testing.assert_array_equal(same, frames)
  np.testing.assert_array_equal(
    augment_clip(frames, AUGMENT, seed=1), augment_clip(frames, AUGMENT, seed=1)
  )
  results = [augment_clip(frames, AUGMENT, seed=seed) for seed in range(8)]
  assert len({result.tobytes() for result in results}) == 8
  flip = augment_clip(frames, AugmentOptions(flip_probability=1.0), seed=1)
  np.testing.assert_array_equal(flip, frames[:, :, ::-1])
  shifted = augment_clip(frames, AugmentOptions(shift_px=2), seed=1)
  # All frames move together: differences of still frames stay zero.
  still = np.repeat(frames[:1], 3, axis=0)
  moved = augment_clip(still, AugmentOptions(shift_px=2), seed=1)
  assert (moved == moved[:1]).all() and shifted.shape == frames.shape
  for value in (1.0, 1.5):
    with pytest.raises(ValueError, match="brightness"):
      AugmentOptions(brightness=value)
