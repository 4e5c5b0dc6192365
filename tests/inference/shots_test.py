"""Ends of moments beside cuts."""

import itertools

import numpy as np
import pytest

from clap_jax import api
from clap_jax.data import features
from clap_jax.inference import shots, streaming, zero_shot
from clap_jax.media import decode, guard
from tests.inference.zero_shot_test import iou
from tfds_builders import encoding

FPS, SIDE_PX = 25, 32
CUTS_SEC = np.array([4.32, 9.68, 14.24, 21.76, 26.4])
EDGES_SEC = [0.0, *CUTS_SEC, 30.0]


@pytest.fixture(scope="module")
def video(tmp_path_factory):
  """30 s in six shots, each of a picture of its own that drifts."""
  small = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3), np.uint8)
  pictures = small.repeat(8, axis=1).repeat(8, axis=2)
  times = np.arange(30 * FPS) / FPS
  path = tmp_path_factory.mktemp("shots") / "video.mp4"
  encoding.write_mp4(
    (
      np.roll(pictures[shot], number // 9, axis=1)
      for number, shot in enumerate(np.searchsorted(CUTS_SEC, times, "right"))
    ),
    path,
    fps=FPS,
  )
  return path


@pytest.mark.parametrize(
  ("segment", "expected"),
  [
    ((2.5, 7.5), (2.1, 7.9)),
    ((1.5, 8.5), (1.5, 8.5)),  # too far away
    ((2.5, 3.5), (2.1, 3.5)),
    ((1.7, 2.4), (1.7, 2.4)),  # nothing would be left
    ((0.0, 5.0), (0.0, 5.0)),
  ],
)
def test_ends_move_to_cuts_within_half_a_stride(segment, expected):
  cuts_sec = np.array([2.1, 7.9])
  found = shots.snapped(np.array([segment]), cuts_sec, stride_sec=1.0)
  assert tuple(found[0]) == expected


def test_without_cuts_nothing_moves():
  segments = np.array([[0.5, 3.5]])
  none = np.zeros(0)
  assert shots.snapped(segments, none, stride_sec=1.0) is segments
  no_segments = np.zeros((0, 2))
  assert not len(shots.snapped(no_segments, CUTS_SEC, stride_sec=1.0))


def test_moments_of_one_shot_gain_and_others_lose_nothing(video):
  """Curves that are high in a shot, or in a stretch that minds no shot."""
  shape = decode.ClipShape(0.04, 1.0, 1, SIDE_PX)
  stream = guard.ClipStream(video, shape, finds_cuts=True)
  count, cuts_sec = len(list(stream)), np.array(stream.cuts_sec)
  np.testing.assert_allclose(cuts_sec, CUTS_SEC)
  grid = features.FeatureGrid(start_sec=0.0, stride_sec=1.0, clip_sec=0.04)
  rng = np.random.default_rng(0)

  def mean_tious(moments) -> tuple[float, float]:
    rows = []
    for start_sec, end_sec in moments:
      times = grid.to_seconds(np.arange(float(count)))
      curve = ((start_sec <= times) & (times < end_sec)).astype(float)
      curve += 0.1 * rng.standard_normal(count)
      best = grid.to_seconds(zero_shot.find_moments(curve).segments[:1])
      moved = shots.snapped(best, cuts_sec, stride_sec=1.0)
      rows.append([iou(s[0], (start_sec, end_sec)) for s in (best, moved)])
    before, after = np.mean(rows, axis=0)
    return float(before), float(after)

  before, after = mean_tious(itertools.pairwise(CUTS_SEC))
  assert before < 0.95
  assert after > 0.99
  starts_sec = rng.uniform(1, 20, 40)
  before, after = mean_tious((s, s + rng.uniform(3, 9)) for s in starts_sec)
  assert after > before - 0.01


def test_predictions_and_search_end_with_shots(
  video, image_encoder, tmp_path, monkeypatch
):
  def distance(found_sec) -> float:
    """Of the farthest end from the nearest cut or end of the video."""
    return max(np.abs(np.array(EDGES_SEC) - end).min() for end in found_sec)

  model = api.load_model(image_encoder.directory)
  found = model.predict(video, queries=["someone jumps"])
  best = [found.predictions[0].start_sec, found.predictions[0].end_sec]
  assert distance(best) < 1e-6
  segments = [(p.start_sec, p.end_sec) for p in found.predictions]
  assert len(set(segments)) == len(segments)
  index = model.index(video, tmp_path / "index")
  (moment,) = model.open_index(index.directory).search("someone jumps", top=1)
  assert distance([moment["start_sec"], moment["end_sec"]]) < 1e-6
  monkeypatch.setattr(shots, "snapped", lambda segments, *_, **__: segments)
  (moment,) = index.search("someone jumps", top=1)
  assert distance([moment["start_sec"], moment["end_sec"]]) > 0.05


def test_clips_of_several_frames_have_no_cuts(video, encoder):
  encoded, _ = streaming.encode_video(encoder, video, stride_sec=1.0)
  assert not len(encoded.cuts_sec)
