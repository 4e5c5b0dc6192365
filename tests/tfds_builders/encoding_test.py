"""The training store's encoder gives the same bytes for the same frames."""

import hashlib

import numpy as np
import pytest

from tfds_builders import encoding


@pytest.mark.parametrize(("height", "width"), [(48, 48), (90, 90), (62, 94)])
def test_same_frames_give_the_same_bytes(tmp_path, height, width):
  """Sides that are no multiple of 64 px, over memory of changing content."""
  rng = np.random.default_rng(0)
  texture = rng.integers(0, 60, (height, width, 3), dtype=np.uint8)
  frames = [np.roll(texture, shift, axis=1) for shift in range(40)]
  digests, kept = set(), []
  for repetition in range(25):
    kept.append(rng.integers(0, 256, 977 * repetition + 17, dtype=np.uint8))
    path = tmp_path / "a.mp4"
    encoding.write_mp4(frames, path, fps=8.0)
    digests.add(hashlib.sha256(path.read_bytes()).hexdigest())
  assert len(digests) == 1
