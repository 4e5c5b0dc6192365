"""Makes candidate moments of the 2D map (start clip, end clip).

Clip j of a sequence covers the `steps_per_clip` snippets from j *
steps_per_clip on, the grid interval from half a step before the first to half
a step after the last.
"""

import numpy as np


def sparse_candidates(
  num_clips: int, *, pooling_counts: tuple[int, ...]
) -> np.ndarray:
  """Returns int32 (c, 2): first and last clip of candidates, sorted.

  All moments of one clip are candidates, and then, level by level, as many
  longer lengths as the level's count, the step between lengths and between
  starts being 2^level: long moments are sampled as coarsely as their length
  allows. With 64 clips and counts 15, 8, 8 there are 1,104.

  Source: Zhang et al., "Learning 2D Temporal Adjacent Networks", AAAI 2020,
  section 3.2.
  """
  if num_clips < 1 or min(pooling_counts, default=0) < 0:
    raise ValueError(
      "a map needs at least one clip and counts >= 0, got "
      f"{num_clips} and {pooling_counts}."
    )
  starts = [np.arange(num_clips)]
  ends = [np.arange(num_clips)]
  distance = 0  # from first to last clip
  for level, count in enumerate(pooling_counts):
    step = 2**level
    for _ in range(count):
      distance += step
      first = np.arange(0, max(num_clips - distance, 0), step)
      starts.append(first)
      ends.append(first + distance)
  pairs = np.stack([np.concatenate(starts), np.concatenate(ends)], axis=-1)
  return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))].astype(np.int32)


def candidate_segments(
  candidates: np.ndarray, *, steps_per_clip: int
) -> np.ndarray:
  """Converts first and last clips (c, 2) to segments in grid units."""
  starts = candidates[:, 0] * steps_per_clip - 0.5
  ends = (candidates[:, 1] + 1) * steps_per_clip - 0.5
  return np.stack([starts, ends], axis=-1).astype(np.float32)
