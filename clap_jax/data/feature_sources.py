"""Yields batches of feature sequences with labelled segments."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from clap_jax.data import shuffle
from clap_jax.data.feature_windows import (
  SequenceOptions,
  Window,
  check_length,
  pad_features,
  random_window,
  see_segments,
  windows_of,
)
from clap_jax.data.features import FeatureError, VideoFeatures
from clap_jax.data.records import ExampleInfo
from clap_jax.types import LocalizationBatch


class LocalizationExample(NamedTuple):
  features: np.ndarray  # float32 (max_length, d)
  mask: np.ndarray  # bool (max_length,)
  segments: np.ndarray  # float32 (n, 2), grid units of the window
  labels: np.ndarray  # int32 (n,)
  video_index: int


class LocalizationSource:
  """Yields videos with labelled segments, for training and evaluation.

  `item` draws videos in shuffled epochs with random crops, a function of
  (seed, index); `[i]` gives video i whole. Segments of `hidden_classes` are
  left out.
  """

  def __init__(
    self,
    examples: Sequence[ExampleInfo],
    features: Mapping[str, VideoFeatures],
    *,
    options: SequenceOptions,
    hidden_classes: frozenset[int] = frozenset(),
    window_overlap: float | None = None,
    whole_share: float = 0.0,
  ):
    """Indexes the videos; those without features are left out.

    Args:
      options: lengths and shares of sequences.
      hidden_classes: labels to leave out.
      window_overlap: `[i]` gives windows of `max_length` that overlap by this
        share of it instead of whole videos; several items may then share a
        video. None for whole videos.
      whole_share: with windows, `item` draws among those that contain at least
        this share of a segment; 0 for random crops.

    Raises:
      FeatureError: no example has features, or no window has such a segment.
    """
    videos = [info for info in examples if info.id in features]
    if not videos:
      raise FeatureError(f"none of {len(examples)} videos has features")
    self._features = features
    self._options = options
    self._videos = videos
    self._whole_share = whole_share
    self._windows = []  # (number of the video, its window), one per item
    self._segments = []
    for number, info in enumerate(videos):
      is_kept = np.array(
        [int(label) not in hidden_classes for label in info.labels], np.bool_
      )
      grid = features[info.id].grid
      segments = grid.to_grid(info.segments[is_kept].astype(np.float64))
      self._segments.append((segments.reshape(-1, 2), info.labels[is_kept]))
      self._windows += [
        (number, window)
        for window in windows_of(
          len(features[info.id].features), options, overlap=window_overlap
        )
      ]
    if whole_share:
      self._keep_whole(whole_share)
    self.max_segments = max(1, *(len(spans) for spans, _ in self._segments))
    # The video and the first feature of every item.
    self.examples = [videos[number] for number, _ in self._windows]
    self.starts = [window.start for _, window in self._windows]

  def _keep_whole(self, share: float) -> None:
    """Keeps the windows that contain this share of a segment."""
    kept = []
    for number, window in self._windows:
      low, high = self._segments[number][0].T
      first = window.start - 0.5
      seen = np.minimum(high, first + window.length) - np.maximum(low, first)
      if (seen >= share * np.maximum(high - low, 1e-6)).any():
        kept.append((number, window))
    if not kept:
      raise FeatureError(
        f"none of {len(self._windows)} windows of {self._options.max_length} "
        f"steps holds {share:g} of a segment; raise data.max_length"
      )
    self._windows = kept

  @property
  def feature_width(self) -> int:
    return self._features[self._videos[0].id].features.shape[1]

  def __len__(self) -> int:
    return len(self._windows)

  def __getitem__(self, index: int) -> LocalizationExample:
    number, window = self._windows[index]
    info = self._videos[number]
    check_length(window, self._options, name=info.id)
    return self._example(number, window)._replace(video_index=index)

  def item(self, index: int, *, seed: int) -> LocalizationExample:
    if self._whole_share:
      row = shuffle.shuffled(index, length=len(self._windows), seed=seed)
      return self._example(*self._windows[row])
    number = shuffle.shuffled(index, length=len(self._videos), seed=seed)
    rng = np.random.Generator(np.random.PCG64(shuffle.mix(seed, 1, index)))
    window = random_window(
      self._features[self._videos[number].id],
      self._options,
      anchors=self._segments[number][0],
      rng=rng,
    )
    return self._example(number, window)

  def _example(self, index: int, window: Window) -> LocalizationExample:
    video = self._features[self._videos[index].id]
    segments, labels = self._segments[index]
    segments, is_kept = see_segments(
      segments,
      window,
      total=len(video.features),
      min_visible_share=self._options.min_visible_share,
    )
    return LocalizationExample(
      *pad_features(video, window, self._options.max_length),
      segments[is_kept],
      labels[is_kept].astype(np.int32),
      index,
    )

  def collate(
    self, examples: Sequence[LocalizationExample], *, batch_size: int
  ) -> LocalizationBatch:
    """Pads to `batch_size` rows, video_index -1, and to `max_segments`."""
    width = self.feature_width
    batch = LocalizationBatch(
      features=np.zeros(
        (batch_size, self._options.max_length, width), np.float32
      ),
      mask=np.zeros((batch_size, self._options.max_length), np.bool_),
      segments=np.zeros((batch_size, self.max_segments, 2), np.float32),
      labels=np.zeros((batch_size, self.max_segments), np.int32),
      segment_mask=np.zeros((batch_size, self.max_segments), np.bool_),
      video_index=np.full((batch_size,), -1, np.int32),
    )
    for row, example in enumerate(examples):
      count = len(example.segments)
      batch.features[row] = example.features
      batch.mask[row] = example.mask
      batch.segments[row, :count] = example.segments
      batch.labels[row, :count] = example.labels
      batch.segment_mask[row, :count] = True
      batch.video_index[row] = example.video_index
    return batch
