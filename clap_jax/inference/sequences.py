"""Resamples features of a video to the sequences that a head takes.

`metadata` is everywhere that of a head: "length" is the length mode of its
training (see data.feature_reader.FeatureData), "max_length" the number of
snippets of a training sequence.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from clap_jax.data import feature_files, feature_windows, features

LENGTHS = ("pad", "resize", "windows")
# Heads that take any length see windows of at least so many snippets, 17
# minutes at a stride of half a second, so that their memory is bounded.
_MIN_LONG_SNIPPETS = 2048


class LongWindow(NamedTuple):
  """A stretch of a video, and which of its moments are its own.

  Windows overlap by half. A moment that is shorter than a quarter of a window
  lies completely in the window that owns its middle.
  """

  start: int
  stop: int
  owned: tuple[float, float]  # grid units of the video


def with_trained_length(
  video: features.VideoFeatures, metadata: Mapping[str, Any]
) -> features.VideoFeatures:
  """Resizes features as in training; other length modes change nothing."""
  if metadata["length"] == "resize":
    return feature_files.resized(video, metadata["max_length"])
  return video


def long_windows(
  num_snippets: int, *, max_length: int, whole_snippets: int = 0
) -> list[LongWindow]:
  """Windows for a head that takes any length; one where the video fits.

  Args:
    max_length: snippets of a training sequence. A window is a power of two
      times as long.
    whole_snippets: a video of so many snippets is one window, if that is more.
  """
  doublings = math.ceil(math.log2(_MIN_LONG_SNIPPETS / max_length))
  size = max(max_length * 2 ** max(0, doublings), whole_snippets)
  hop, quarter = size // 2, size // 4
  windows, start, low = [], 0, -math.inf
  while num_snippets - start > size:
    high = start + hop + quarter
    windows.append(LongWindow(start, start + size, (low, high)))
    start, low = start + hop, high
  return [*windows, LongWindow(start, num_snippets, (low, math.inf))]


def padded_to(
  sequence: np.ndarray, max_length: int
) -> tuple[np.ndarray, np.ndarray]:
  """(1, t, d) and (1, t): at least `max_length` long, else the next double.

  For heads that take any length. Doubling keeps the number of compiled
  programs small.
  """
  return padded(
    sequence,
    feature_windows.doubled_length(len(sequence), max_length=max_length),
  )


def padded(sequence: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
  """(1, length, d) and (1, length): the sequence, and zeros behind it."""
  rows = np.zeros((1, length, sequence.shape[1]), np.float32)
  rows[0, : len(sequence)] = sequence
  return rows, (np.arange(length) < len(sequence))[None]


def trained_windows(
  num_snippets: int, *, max_length: int
) -> list[feature_windows.Window]:
  """Windows of the trained length, those of evaluation."""
  options = feature_windows.SequenceOptions(max_length=max_length)
  return feature_windows.windows_of(num_snippets, options, overlap=0.5)


def stacked(
  sequence: np.ndarray,
  windows: Sequence[feature_windows.Window],
  *,
  max_length: int,
  num_rows: int,
) -> tuple[np.ndarray, np.ndarray]:
  """Windows as (num_rows, max_length, d) and a mask; missing rows are empty."""
  padded = np.zeros((num_rows, max_length, sequence.shape[1]), np.float32)
  mask = np.zeros((num_rows, max_length), np.bool_)
  for row, (start, length) in enumerate(windows):
    padded[row, :length] = sequence[start : start + length]
    mask[row, :length] = True
  return padded, mask
