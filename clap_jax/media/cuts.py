"""Cuts between the shots of a video, found while its frames are decoded.

A frame begins a shot where the picture changes much, and several times as much
as at any of the frames around it. Motion and fades change it again and again, a
flash changes it back, and frames that repeat hide the motion between them for
no longer than that. No second pass is needed, and no more than one small
picture is kept.
"""

import collections

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from clap_jax.media import errors

_SIDE_PX = 16
# Mean over the picture, in levels of 255, and over the changes around it.
_MIN_CHANGE = 12.0
_MIN_RATIO = 3.0
_NUM_AROUND = 4  # frames on each side


class CutFinder:
  """Is given all frames in their order, and finds those that begin a shot."""

  def __init__(self):
    self._reformatter = VideoReformatter()
    self._picture: np.ndarray | None = None
    size = 2 * _NUM_AROUND + 1
    # (time, change from the frame before) of the last frames
    self._changes = collections.deque([(0.0, 0.0)] * size, maxlen=size)

  def __call__(self, time: float, frame: av.VideoFrame) -> float | None:
    """Takes a frame; returns the time of an earlier one that begins a shot."""
    with errors.named("cannot convert a frame"):
      scaled = self._reformatter.reformat(
        frame,
        width=_SIDE_PX,
        height=_SIDE_PX,
        format="gray",
        interpolation=Interpolation.AREA,
        threads=1,
      )
      picture = scaled.to_ndarray().astype(np.int16)
    before = picture if self._picture is None else self._picture
    self._changes.append((time, float(np.abs(picture - before).mean())))
    self._picture = picture
    changes = [change for _, change in self._changes]
    middle = changes.pop(_NUM_AROUND)
    is_cut = middle >= max(_MIN_CHANGE, _MIN_RATIO * max(changes))
    return self._changes[_NUM_AROUND][0] if is_cut else None
