"""Converts decoded frames to pixels of a model's input size."""

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from clap_jax.media import errors

# "tsp_whole" is "tsp" without its central crop, for random crops.
RESIZE_MODES = ("squash", "crop", "tsp", "tsp_whole")
# TSP resizes frames to this size before it cuts out 112 x 112 px.
_TSP_HEIGHT, _TSP_WIDTH, _TSP_SIZE = 128, 171, 112
# Bit-exact scaling gives equal pixels on machines with other vector units.
_INTERPOLATION = (
  Interpolation.BILINEAR | Interpolation.BITEXACT | Interpolation.ACCURATE_RND
)


def frame_sides(size: int, mode: str) -> tuple[int, int]:
  """Returns height and width of FrameConverter's results, in px."""
  if mode != "tsp_whole":
    return size, size
  return (
    round(size * _TSP_HEIGHT / _TSP_SIZE),
    round(size * _TSP_WIDTH / _TSP_SIZE),
  )


class FrameConverter:
  """Converts decoded frames to uint8 (size, size, 3) RGB arrays.

  Mode 'squash' ignores the aspect ratio; 'crop' scales the short side to the
  size and keeps the centre; 'tsp' resizes to 128 x 171 px, whatever the aspect
  ratio, and keeps the central 112 x 112 (other sizes in proportion), as TSP
  (Alwassel et al.) does. A rotation stored with the stream is applied.
  """

  def __init__(self, *, size: int, mode: str = "squash"):
    if mode not in RESIZE_MODES:
      raise ValueError(f"unknown mode {mode!r}; choose from {RESIZE_MODES}")
    if size < 1:
      raise ValueError(f"size is {size} px; expected at least 1")
    self._size = size
    self._mode = mode
    self._reformatter = VideoReformatter()

  def __call__(self, frame: av.VideoFrame) -> np.ndarray:
    height = width = self._size
    quarters = frame.rotation // 90 if frame.rotation % 90 == 0 else 0
    if self._mode.startswith("tsp"):
      height, width = frame_sides(self._size, "tsp_whole")
      if quarters % 2:  # it is turned below
        height, width = width, height
    if self._mode == "crop":
      scale = self._size / min(frame.height, frame.width)
      height = max(self._size, round(frame.height * scale))
      width = max(self._size, round(frame.width * scale))
    with errors.named("cannot convert a frame"):
      scaled = self._reformatter.reformat(
        frame,
        width=width,
        height=height,
        format="rgb24",
        interpolation=_INTERPOLATION,
        threads=1,
      )
      pixels = scaled.to_ndarray()
    if self._mode != "tsp_whole":
      top, left = (height - self._size) // 2, (width - self._size) // 2
      pixels = pixels[top : top + self._size, left : left + self._size]
    return np.ascontiguousarray(np.rot90(pixels, k=quarters))
