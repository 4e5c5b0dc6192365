"""Tests that near duplicates are encoded once and moments do not change."""

import dataclasses

import numpy as np
import pytest

from clap_jax.inference import (
  extract,
  near_duplicates,
  streaming,
  zero_shot,
)
from clap_jax.media import decode
from tfds_builders import encoding

SIDE_PX, FPS = 32, 5
QUERIES = ["someone jumps", "a still picture"]


def clips_of(*frames):
  return [
    decode.DecodedClip(float(i), np.asarray(frame, np.uint8)[None])
    for i, frame in enumerate(frames)
  ]


def flat(level: float) -> np.ndarray:
  return np.full((SIDE_PX, SIDE_PX, 3), level)


def passed(clips) -> tuple[list[float], list[int]]:
  gate = near_duplicates.Gate()
  return [clip.start_sec for clip in gate(clips)], gate.places


def test_a_still_picture_is_encoded_once():
  rng = np.random.default_rng(0)
  noisy = [flat(100) + rng.integers(-1, 2, (SIDE_PX, SIDE_PX, 3))] * 3
  assert passed(clips_of(flat(100), *noisy)) == ([0.0], [0, 0, 0, 0])


def test_a_small_change_is_noticed():
  changed = flat(100)
  changed[:4, :4] += 60  # a sixteenth of one block
  assert passed(clips_of(flat(100), changed)) == ([0.0, 1.0], [0, 1])


def test_a_slow_change_is_noticed():
  frames = [flat(100 + i) for i in range(6)]
  assert passed(clips_of(*frames)) == ([0.0, 2.0, 4.0], [0, 0, 1, 1, 2, 2])


def test_removed_and_restored_videos_are_encoded_again():
  frames = [flat(0), flat(9), flat(0)]
  assert passed(clips_of(*frames)) == ([0.0, 1.0, 2.0], [0, 1, 2])


@pytest.mark.parametrize("side_px", [16, 20, 224])
def test_sides(side_px):
  first = np.zeros((1, side_px, side_px, 3), np.uint8)
  assert near_duplicates.difference(first, first) == 0.0
  assert near_duplicates.difference(first, first + 3) == 3.0


@pytest.fixture(scope="module")
def video(tmp_path_factory):
  """40 s: ten stand still, ten move, twenty stand still."""
  rng = np.random.default_rng(0)
  small = rng.integers(0, 255, (16, 16, 3), np.uint8)
  picture = np.kron(small, np.ones((8, 8, 1), np.uint8))
  steps = [min(max(i - 50, 0), 50) for i in range(40 * FPS)]
  path = tmp_path_factory.mktemp("video") / "a.mp4"
  encoding.write_mp4(
    (np.roll(picture, 5 * step, axis=1) for step in steps), path, fps=FPS
  )
  return path


def test_the_moments_stay(image_encoder, video, monkeypatch):
  asked = []
  features_of = type(image_encoder).clip_features

  def counted(self, frames, batch):
    asked.append(len(frames))
    return features_of(self, frames, batch)

  monkeypatch.setattr(type(image_encoder), "clip_features", counted)
  (fewer, *_), duration_sec = streaming.encode_video(
    image_encoder, video, stride_sec=1.0
  )
  num_encoded = sum(asked)
  asked.clear()
  monkeypatch.setattr(
    near_duplicates.Gate.__init__, "__defaults__", (-1.0,)
  )  # every frame differs
  (every, *_), _ = streaming.encode_video(image_encoder, video, stride_sec=1.0)
  assert sum(asked) == len(every) == len(fewer) == pytest.approx(duration_sec)
  assert num_encoded <= 16
  texts = zero_shot.query_texts(image_encoder, QUERIES)
  found = [
    zero_shot.find(image_encoder.project(features), texts).moments
    for features in (fewer, every)
  ]
  for ours, theirs in zip(*found, strict=True):
    np.testing.assert_array_equal(ours.runs[0], theirs.runs[0])
    np.testing.assert_allclose(ours.scores[0], theirs.scores[0], atol=0.02)


def test_clips_of_several_frames_are_all_encoded(image_encoder, monkeypatch):
  several = dataclasses.replace(
    image_encoder, clip=dataclasses.replace(image_encoder.clip, num_frames=2)
  )
  seen = []
  monkeypatch.setattr(
    type(image_encoder),
    "clip_features",
    lambda self, frames, _: seen.append(frames) or np.zeros((len(frames), 4)),
  )
  still = [decode.DecodedClip(0.0, np.zeros((2, 32, 32, 3), np.uint8))] * 3
  assert len(extract.video_features(several, still)) == 3
  assert sum(map(len, seen)) == 3
