"""One frame must not tell the class; a clip's motion must."""

import numpy as np
import pytest

from tfds_builders.motion_sprites import scene, sizes, verbs

CLIP_FRAMES = 13
CHANCE = 1 / len(verbs.CLASS_NAMES)


def _clips(split, count):
  """(labels, middle frames, grey clips) of the actions without company."""
  config = sizes.get_config("demo")
  labels, frames, clips = [], [], []
  for index in range(count):
    one = scene.make_scene(0, split, index=index, config=config)
    for action in one.actions:
      company = any(
        a is not action and a.start < action.end and a.end > action.start
        for a in one.actions
      )
      if company:
        continue
      start = action.start + 2
      clip = scene.draw(one, slice(start, start + CLIP_FRAMES))
      labels.append(verbs.CLASS_NAMES.index(action.verb))
      frames.append(clip[CLIP_FRAMES // 2])
      clips.append(clip.astype(np.float32).mean(-1))
  return np.array(labels), np.array(frames), np.array(clips)


def _pixels(frames):
  half = frames.reshape(len(frames), 32, 2, 32, 2, 3).astype(np.float32)
  return half.mean((2, 4)).reshape(len(frames), -1)


def _motion(clip):
  """What changes, where and how regularly; blind to looks and place."""
  change = np.diff(clip, axis=0)
  weight = np.where(np.abs(change) > 12, np.abs(change), 0.0) + 1e-6
  total = weight.sum((1, 2))
  y, x = np.mgrid[:64, :64]
  track = np.stack([(weight * axis).sum((1, 2)) / total for axis in (x, y)])
  spread = [
    np.sqrt((weight * (a - m[:, None, None]) ** 2).sum((1, 2)) / total).mean()
    for a, m in zip((x, y), track, strict=True)
  ]
  apart = np.abs(clip[:, None] - clip[None]).mean((2, 3))
  lags = np.array([apart.diagonal(k).mean() for k in range(1, CLIP_FRAMES)])
  waves = np.abs(np.fft.rfft(track - track.mean(1, keepdims=True), axis=1))
  moved = track[:, -1] - track[:, 0]
  return np.concatenate(
    [
      lags / lags.mean(),
      np.log(waves + 0.3).ravel(),
      spread,
      [np.log(total).mean(), np.log(total).std()],
      moved,
      moved**2,
    ]
  )


def _ridge(known, labels, new, strength=0.1):
  mean, spread = known.mean(0), known.std(0) + 1e-6
  known, new = (known - mean) / spread, (new - mean) / spread
  width = known.shape[1]
  target = np.eye(len(verbs.CLASS_NAMES))[labels] - CHANCE
  kernel = known @ known.T / width + strength * np.eye(len(known))
  scores = new @ known.T / width @ np.linalg.solve(kernel, target)
  return scores.argmax(1)


def _nearest(known, labels, new):
  distance = (known**2).sum(1) - 2 * new @ known.T
  return labels[distance.argmin(1)]


@pytest.fixture(scope="module")
def data():
  return _clips("train", 180), _clips("selection", 80)


def test_one_frame_stays_near_chance_and_motion_does_not(data, record_property):
  (labels, frames, clips), (truth, new_frames, new_clips) = data
  assert len(truth) > 180
  known, new = _pixels(frames), _pixels(new_frames)
  accuracy = {
    "frame, linear": (_ridge(known, labels, new) == truth).mean(),
    "frame, nearest": (_nearest(known, labels, new) == truth).mean(),
    "clip motion, linear": (
      _ridge(
        np.array([_motion(c) for c in clips]),
        labels,
        np.array([_motion(c) for c in new_clips]),
      )
      == truth
    ).mean(),
  }
  for name, value in accuracy.items():
    record_property(name, float(value))
    print(f"{name}: {value:.3f} (chance {CHANCE:.3f}, n = {len(truth)})")
  # Four standard errors above chance, in a sample of this size.
  margin = 4 * np.sqrt(CHANCE * (1 - CHANCE) / len(truth))
  assert accuracy["frame, linear"] < CHANCE + margin
  assert accuracy["frame, nearest"] < CHANCE + margin
  assert accuracy["clip motion, linear"] > 0.35
