"""Moments that end with a shot where one ends nearby.

An encoder of single frames sees one per stride. What it finds ends somewhere
between the last frame inside and the first one outside, and so does the middle
between them, which stands for it. A cut between these two is the better end.
Cuts farther away are no evidence: taking them shortens moments within a shot.
"""

import numpy as np


def snapped(
  segments: np.ndarray, cuts_sec: np.ndarray, *, stride_sec: float
) -> np.ndarray:
  """Moves the ends of segments (n, 2) to cuts within half a stride.

  A segment of which nothing would be left stays as it is.
  """
  if not len(cuts_sec):
    return segments
  middles = (cuts_sec[1:] + cuts_sec[:-1]) / 2
  nearest = cuts_sec[np.searchsorted(middles, segments)]
  is_near = np.abs(nearest - segments) <= stride_sec / 2
  moved = np.where(is_near, nearest, segments)
  return np.where(moved[:, :1] < moved[:, 1:], moved, segments)
