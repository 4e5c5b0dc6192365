"""Skips the encoding of frames that hardly differ from the last one.

A tower of single frames gives nearly equal vectors to nearly equal frames, and
most frames of a talk, a screen or a fixed camera at night are. Two frames count
as equal if no block differs by more than compression changes a still picture.
Each frame is compared with the last encoded one, so that slow changes add up
and are detected.
"""

from collections.abc import Iterable, Iterator

import numpy as np

from clap_jax.media import decode

# Mean over a block and its colours, in levels of 255. Larger values change the
# curve of a query; tests/inference/near_duplicates_test.py measures it.
MAX_DIFFERENCE = 1.5
_BLOCK_PX = 16


class Gate:
  """Filters out near duplicates and records which clip replaces each.

  Attributes:
    places: for each input clip, the index of its representative among the
      clips passed on.
  """

  def __init__(self, max_difference: float = MAX_DIFFERENCE):
    self.places: list[int] = []
    self._max_difference = max_difference
    self._last: np.ndarray | None = None

  def __call__(
    self, clips: Iterable[decode.DecodedClip]
  ) -> Iterator[decode.DecodedClip]:
    """Yields the clips that differ from the last one yielded."""
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
  """Returns the largest block mean of |a - b|, both uint8 (n, s, s, 3)."""
  change = np.abs(first.astype(np.int16) - second).astype(np.float32)
  count, side = change.shape[:2]
  block = _BLOCK_PX if side % _BLOCK_PX == 0 else side
  blocks = change.reshape(count, side // block, block, side // block, block, -1)
  return float(blocks.mean(axis=(2, 4, 5)).max())
