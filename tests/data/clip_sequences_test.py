"""Whole videos as sequences of clips, from the cache and from the file."""

import types

import numpy as np
import pytest

from clap_jax.data import (
  clip_sequences,
  feature_windows,
  features,
  frame_cache,
)
from clap_jax.media import decode, errors

CLIPS = clip_sequences.ClipOptions(
  clip_sec=2.0, stride_sec=1.0, num_frames=4, size=16
)


def source_of(dataset, *, cache_mib=0.0, max_length=8, examples=None):
  split = dataset.split("train")
  return clip_sequences.ClipSequenceSource(
    split,
    examples or split.metadata().examples,
    clips=CLIPS,
    windows=feature_windows.SequenceOptions(
      max_length=max_length, crop_probability=0.5
    ),
    cache=frame_cache.FrameCache(cache_mib),
  )


def test_a_window_holds_the_clips_of_its_place(dataset):
  source, cached = source_of(dataset), source_of(dataset, cache_mib=64.0)
  for index in range(4):
    item = source.item(index, seed=3)
    same = cached.item(index, seed=3)
    np.testing.assert_array_equal(item.clips, same.clips)
    numbers = item.example.features[item.example.mask, 0].astype(int)
    assert len(item.clips) == len(numbers) <= 8
    info = source.examples[item.example.video_index]
    expected = decode.decode_clip(
      dataset.split("train")[info.index].video,
      start_sec=float(numbers[-1]),
      clip_sec=2.0,
      num_frames=4,
      size=16,
    )
    np.testing.assert_array_equal(item.clips[-1], expected)


def test_segments_are_those_of_the_window(dataset):
  source = source_of(dataset, max_length=16)
  item = source.item(0, seed=0)
  info = source.examples[item.example.video_index]
  first = item.example.features[0, 0]
  grid = features.FeatureGrid(start_sec=0.0, stride_sec=1.0, clip_sec=2.0)
  expected = grid.to_grid(info.segments.astype(np.float64)) - first
  inside = [s for s in item.example.segments.tolist()]
  assert len(inside) >= 1
  for segment in inside:
    distance = np.abs(expected - segment).max(axis=1).min()
    assert distance < 1.5  # at most cut to the window's edge


def test_batches_are_padded(dataset):
  source = source_of(dataset)
  items = [source.item(i, seed=1) for i in range(2)]
  batch = source.collate(items, batch_size=3)
  assert batch.clips.shape == (3, 8, 4, 16, 16, 3)
  assert batch.clips.dtype == np.uint8
  assert batch.video_index[2] == -1
  assert not batch.mask[2].any()
  assert not batch.clips[2].any()
  np.testing.assert_array_equal(batch.clips[0][batch.mask[0]], items[0].clips)


def test_a_stream_gives_every_clip_once(dataset):
  for cache_mib in (0.0, 64.0):
    source = source_of(dataset, cache_mib=cache_mib)
    info = source.examples[1]
    clips = list(source.stream(info))
    assert len(clips) == source.num_clips(info) == 11
    expected = decode.decode_clip(
      dataset.split("train")[info.index].video,
      start_sec=10.0,
      clip_sec=2.0,
      num_frames=4,
      size=16,
    )
    np.testing.assert_array_equal(clips[10], expected)


class _Damaged:
  """The records of a split, one of whose videos is no video."""

  def __init__(self, split, bad):
    self._split, self._bad = split, set(bad)

  def __getitem__(self, index):
    if index in self._bad:
      return types.SimpleNamespace(video=b"no video")
    return self._split[index]


def test_bad_videos_are_replaced_and_named(dataset, capsys):
  split = dataset.split("train")
  infos = split.metadata().examples

  def damaged(bad):
    return clip_sequences.ClipSequenceSource(
      _Damaged(split, bad),
      infos,
      clips=CLIPS,
      windows=feature_windows.SequenceOptions(max_length=8),
      cache=frame_cache.FrameCache(0.0),
    )

  source = damaged([2])
  drawn = {source.item(i, seed=0).example.video_index for i in range(12)}
  assert 2 not in drawn
  assert set(source.bad_videos.reasons) == {infos[2].id}
  assert infos[2].id in capsys.readouterr().err
  with pytest.raises(errors.VideoError, match="cannot be decoded"):
    damaged(range(len(infos))).item(0, seed=0)
