"""Moves the ends of moments to nearby cuts between shots.

An encoder of single frames samples one frame per stride. A moment ends
somewhere between its last frame and the first frame outside; the middle is the
estimate. A cut between the two frames is a better one. Cuts farther away are
not used: they would shorten moments within a shot.
"""

import numpy as np


def snapped(
  segments: np.ndarray, cuts_sec: np.ndarray, *, stride_sec: float
) -> np.ndarray:
  """Moves the ends of segments (n, 2) to cuts within half a stride.

  A segment that would become empty is unchanged.
  """
  if not len(cuts_sec):
    return segments
  middles = (cuts_sec[1:] + cuts_sec[:-1]) / 2
  nearest = cuts_sec[np.searchsorted(middles, segments)]
  is_near = np.abs(nearest - segments) <= stride_sec / 2
  moved = np.where(is_near, nearest, segments)
  return np.where(moved[:, :1] < moved[:, 1:], moved, segments)
