"""Crops windows of feature sequences and clips segments to them."""

import dataclasses
from typing import NamedTuple

import numpy as np

from clap_jax.data.features import FeatureError, VideoFeatures


@dataclasses.dataclass(frozen=True, kw_only=True)
class SequenceOptions:
  """Options of bringing sequences to one length.

  In training a longer sequence is always cropped at random, a shorter one with
  `crop_probability`; the length of a crop is `min_crop_share` to 1 times the
  maximum. A segment is kept, cut to the window, if at least `min_visible_share`
  of it remains. In evaluation a longer sequence is an error.
  """

  max_length: int
  crop_probability: float = 0.0
  min_crop_share: float = 0.9
  min_visible_share: float = 0.5


def doubled_length(num_steps: int, *, max_length: int) -> int:
  """Doubles `max_length` until the steps fit, to compile few programs."""
  length = max_length
  while length < num_steps:
    length *= 2
  return length


class Window(NamedTuple):
  """Features [start, start + length) of a sequence."""

  start: int
  length: int


def whole_window(
  video: VideoFeatures, options: SequenceOptions, *, name: str
) -> Window:
  """Returns the window of all features.

  Raises:
    FeatureError: there are more than `max_length`.
  """
  window = Window(0, len(video.features))
  check_length(window, options, name=name)
  return window


def check_length(
  window: Window, options: SequenceOptions, *, name: str
) -> None:
  """Raises a FeatureError if the window is longer than `max_length`."""
  if window.length > options.max_length:
    raise FeatureError(
      f"{name} has {window.length} features, max_length is "
      f"{options.max_length}; raise max_length for evaluation, where nothing "
      "may be cut"
    )


def windows_of(
  total: int, options: SequenceOptions, *, overlap: float | None
) -> list[Window]:
  """Returns windows that cover a sequence, the last flush with its end.

  Args:
    total: number of features of the sequence.
    options: max_length is the length of windows; a shorter sequence has one
      window.
    overlap: overlap of neighbours as a share of the length, in [0, 1); None for
      one window of all features.
  """
  size = options.max_length
  if overlap is None or total <= size:
    return [Window(0, total)]
  stride = max(1, round(size * (1 - overlap)))
  starts = [*range(0, total - size, stride), total - size]
  return [Window(start, size) for start in starts]


def random_window(
  video: VideoFeatures,
  options: SequenceOptions,
  *,
  anchors: np.ndarray,
  rng: np.random.Generator,
) -> Window:
  """Draws a crop that contains the middle of a random anchor.

  Args:
    options: lengths and shares.
    anchors: (n, 2) in grid units; if n = 0, the crop may lie anywhere.
    rng: generator, from which a fixed number of values is drawn.
  """
  total = len(video.features)
  is_cropped, share, position, choice = rng.random(4)
  room = min(total, options.max_length)
  if total <= options.max_length and is_cropped >= options.crop_probability:
    return Window(0, total)
  share = options.min_crop_share + share * (1 - options.min_crop_share)
  length = max(1, round(room * share))
  low, high = 0, total - length
  if len(anchors):
    anchor = anchors[int(choice * len(anchors))]
    middle = int(np.clip(round(float(anchor.mean())), 0, total - 1))
    low = max(low, middle - length + 1)
    high = min(high, middle)
  return Window(low + int(position * (high - low + 1)), length)


def see_segments(
  segments: np.ndarray,
  window: Window,
  *,
  total: int,
  min_visible_share: float,
) -> tuple[np.ndarray, np.ndarray]:
  """Returns segments in the coordinates of a window, and their mask.

  Args:
    segments: (n, 2) in grid units of the whole sequence.
    window: the visible part; with the whole sequence segments are unchanged.
    total: length of the whole sequence.
    min_visible_share: minimum share of a segment, in (0, 1], to keep it.

  Returns:
    segments float32 (n, 2), cut to the window, and a mask bool (n,).
  """
  moved = segments - window.start
  if window == Window(0, total):
    return moved.astype(np.float32), np.ones(len(segments), np.bool_)
  # Each feature covers half a stride on either side of its middle.
  cut = moved.clip(-0.5, window.length - 0.5)
  lengths = (moved[:, 1] - moved[:, 0]).clip(1e-6, window.length)
  visible = (cut[:, 1] - cut[:, 0]) / lengths
  return cut.astype(np.float32), visible >= min_visible_share


def pad_features(
  video: VideoFeatures, window: Window, max_length: int
) -> tuple[np.ndarray, np.ndarray]:
  """Returns a window's features, zero-padded to max_length, and the mask."""
  padded = np.zeros((max_length, video.features.shape[1]), np.float32)
  stop = window.start + window.length
  padded[: window.length] = video.features[window.start : stop]
  return padded, np.arange(max_length) < window.length
