"""Cuts between shots, and what looks like one."""

import json

import numpy as np
import pytest

from clap_jax.media import decode, guard
from tfds_builders import encoding

FPS, SIDE_PX = 25, 32
SHAPE = decode.ClipShape(0.04, 1.0, 1, SIDE_PX)


def picture(seed: int) -> np.ndarray:
  small = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
  return np.kron(small, np.ones((8, 8, 1), np.uint8))


def shots(*lengths: int) -> list[np.ndarray]:
  """Pictures that drift, another one for each number of frames."""
  return [
    np.roll(picture(shot), number // 5, axis=1)
    for shot, length in enumerate(lengths)
    for number in range(length)
  ]


def faded(length: int) -> list[np.ndarray]:
  first, second = picture(0).astype(float), picture(1).astype(float)
  share = np.clip((np.arange(length) - 20) / 10, 0, 1)
  return [((1 - s) * first + s * second).astype(np.uint8) for s in share]


def flashed(length: int) -> list[np.ndarray]:
  frames = shots(length)
  frames[length // 2] = np.full_like(frames[0], 255)
  return frames


def repeated(frames: list[np.ndarray], times: int) -> list[np.ndarray]:
  return [frame for frame in frames for _ in range(times)]


@pytest.mark.parametrize(
  ("frames", "expected_frames"),
  [
    pytest.param(shots(30), [], id="one shot"),
    pytest.param(shots(30, 18, 40), [30, 48], id="three shots"),
    pytest.param(shots(30, 5, 40), [30, 35], id="a short shot"),
    pytest.param(faded(60), [], id="a fade"),
    pytest.param(flashed(50), [], id="a flash"),
    pytest.param(
      repeated([np.roll(picture(0), 4 * i, axis=1) for i in range(20)], 3),
      [],
      id="motion in every third frame",
    ),
  ],
)
def test_cuts(frames, expected_frames, tmp_path):
  path = tmp_path / "video.mp4"
  encoding.write_mp4(frames, path, fps=FPS)
  stream = guard.ClipStream(path, SHAPE, finds_cuts=True)
  assert len(list(stream)) == round(len(frames) / FPS + 0.49)
  np.testing.assert_allclose(stream.cuts_sec, np.array(expected_frames) / FPS)


def test_nobody_asked(tmp_path):
  encoding.write_mp4(shots(30, 30), tmp_path / "video.mp4", fps=FPS)
  stream = guard.ClipStream(tmp_path / "video.mp4", SHAPE)
  assert list(stream)
  assert stream.cuts_sec == []


@pytest.mark.parametrize("cut_sec", ["1", "NaN", "Infinity", "null"])
def test_an_answer_that_is_no_time(cut_sec):
  message = json.loads(f'{{"cut_sec": {cut_sec}}}')
  assert not guard._is_message(message)
