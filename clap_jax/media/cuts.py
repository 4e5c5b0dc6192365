"""Finds cuts between the shots of a video while its frames are decoded.

A frame begins a shot if the picture changes much, and several times as much as
at any neighbouring frame. Motion and fades change several frames in a row, a
flash changes the picture back, and repeated frames hide motion only briefly. No
second pass is needed, and only one small picture is kept.
"""

import collections

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from clap_jax.media import errors

_SIDE_PX = 16
# Mean change of the picture, in levels of 255, and its ratio to the others.
_MIN_CHANGE = 12.0
_MIN_RATIO = 3.0
_NUM_AROUND = 4  # frames on each side


class CutFinder:
  """Finds the frames that begin a shot; takes all frames in order."""

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
