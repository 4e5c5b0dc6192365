"""Skips encoding of frames that hardly differ from the last one.

A tower that looks at single frames gives nearly the same vector for nearly the
same picture: of a talk, a screen or a fixed camera at night most frames need no
work. Two frames are taken for the same one if no block of them differs by more
than what compression leaves of a still picture. Each frame is compared with the
last one that was encoded, so that a slow change is noticed as soon as it adds
up.
"""

from collections.abc import Iterable, Iterator

import numpy as np

from clap_jax.media import decode

# Levels of 255: mean over a block and its colours. Beyond it the curve of a
# query moves; tests/inference/near_duplicates_test.py has the numbers.
MAX_DIFFERENCE = 1.5
_BLOCK_PX = 16


class Gate:
  """Passes on clips that differ, and counts which clip each of all is like.

  Attributes:
    places: of each clip seen, the place of the one that stands for it among
      those passed on.
  """

  def __init__(self, max_difference: float = MAX_DIFFERENCE):
    self.places: list[int] = []
    self._max_difference = max_difference
    self._last: np.ndarray | None = None

  def __call__(
    self, clips: Iterable[decode.DecodedClip]
  ) -> Iterator[decode.DecodedClip]:
    """Clips that are not like the last one passed on."""
    passed = 0
    for clip in clips:
      is_new = self._last is None or (
        difference(self._last, clip.frames) > self._max_difference
      )
      if is_new:
        self._last = clip.frames
        passed += 1
      self.places.append(passed - 1)
      if is_new:
        yield clip


def difference(first: np.ndarray, second: np.ndarray) -> float:
  """The largest mean difference of a block; uint8 (n, side, side, 3) both."""
  change = np.abs(first.astype(np.int16) - second).astype(np.float32)
  count, side = change.shape[:2]
  block = _BLOCK_PX if side % _BLOCK_PX == 0 else side
  blocks = change.reshape(count, side // block, block, side // block, block, -1)
  return float(blocks.mean(axis=(2, 4, 5)).max())
