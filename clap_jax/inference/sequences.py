"""Turns features of a video into the sequences that a head was trained on.

`metadata` always means a head's metadata: "length" is the length mode of its
training (see data.feature_reader.FeatureData), "max_length" the number of
snippets of a training sequence.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from clap_jax.data import feature_files, feature_windows, features

LENGTHS = ("pad", "resize", "windows")
# Minimum window of heads that take any length, in snippets; windows bound their
# memory. It is 17 minutes at a stride of half a second.
_MIN_LONG_SNIPPETS = 2048


class LongWindow(NamedTuple):
  """A window of a video and the range of moment middles that it owns.

  Windows overlap by half. A moment shorter than a quarter of a window is
  completely inside the window that owns its middle.
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
  """Returns windows for a head that takes any length.

  Args:
    max_length: snippets of a training sequence; a window is longer by a power
      of two.
    whole_snippets: minimum length of a window, which may be larger.
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
  """Pads a sequence for a head that takes any length.

  The padded length is `max_length` times a power of two, which keeps the
  number of compiled programs small.

  Returns:
    The sequence (1, t, d) and its mask (1, t).
  """
  return padded(
    sequence,
    feature_windows.doubled_length(len(sequence), max_length=max_length),
  )


def padded(sequence: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
  """Pads a sequence with zeros to (1, length, d), with mask (1, length)."""
  rows = np.zeros((1, length, sequence.shape[1]), np.float32)
  rows[0, : len(sequence)] = sequence
  return rows, (np.arange(length) < len(sequence))[None]


def trained_windows(
  num_snippets: int, *, max_length: int
) -> list[feature_windows.Window]:
  """Returns windows of the trained length, as in evaluation."""
  options = feature_windows.SequenceOptions(max_length=max_length)
  return feature_windows.windows_of(num_snippets, options, overlap=0.5)


def stacked(
  sequence: np.ndarray,
  windows: Sequence[feature_windows.Window],
  *,
  max_length: int,
  num_rows: int,
) -> tuple[np.ndarray, np.ndarray]:
  """Stacks windows to (num_rows, max_length, d) and a mask; pads with zeros."""
  padded = np.zeros((num_rows, max_length, sequence.shape[1]), np.float32)
  mask = np.zeros((num_rows, max_length), np.bool_)
  for row, (start, length) in enumerate(windows):
    padded[row, :length] = sequence[start : start + length]
    mask[row, :length] = True
  return padded, mask
