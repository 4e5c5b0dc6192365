"""Yields training batches of videos with several queries each."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from clap_jax.data import queries, shuffle
from clap_jax.data.feature_windows import (
  SequenceOptions,
  pad_features,
  random_window,
  see_segments,
)
from clap_jax.data.features import FeatureError, VideoFeatures
from clap_jax.types import GroundingBatch


class _Moments(NamedTuple):
  """A query of a batch."""

  index: int
  segments: np.ndarray  # float32 (n, 2), grid units of the window; none: absent
  saliency: np.ndarray  # float32 (max_length,)


class GroundingExample(NamedTuple):
  features: np.ndarray  # float32 (max_length, d)
  mask: np.ndarray  # bool (max_length,)
  moments: tuple[_Moments, ...]


class GroundingSource:
  """Yields videos with some of their queries and some of other videos.

  `item` draws videos in shuffled epochs with random crops, a function of (seed,
  index). A crop contains the middle of one moment; queries whose moments it
  loses are dropped.
  """

  def __init__(
    self,
    split: queries.GroundingSplit,
    features: Mapping[str, VideoFeatures],
    *,
    vectors: queries.QueryVectors,
    options: SequenceOptions,
    queries_per_video: int,
    absent_per_video: int,
  ):
    """Indexes the queries; those on videos without features are left out.

    Args:
      options: options of bringing sequences to one length.
      queries_per_video: maximum number of own queries of a video.
      absent_per_video: maximum number of queries of other videos; see
        `NegativeQueries`.

    Raises:
      FeatureError: no query is left, or texts lack vectors.
    """
    self.queries = split.queries
    self._by_video: dict[str, list[int]] = {}
    for index, query in enumerate(split.queries):
      if query.video_id in features:
        self._by_video.setdefault(query.video_id, []).append(index)
    if not self._by_video:
      raise FeatureError(f"none of {len(self.queries)} queries has features")
    self._videos = list(self._by_video)
    self._features = features
    self._vectors = vectors
    self._options = options
    self._num_own, self._num_absent = queries_per_video, absent_per_video
    self._strangers = queries.NegativeQueries(split)
    self._rows = text_rows(split.queries, vectors)
    self._max_windows = max(len(query.windows) for query in self.queries)

  def __len__(self) -> int:
    """Returns the number of videos with features and queries."""
    return len(self._videos)

  def item(self, index: int, *, seed: int) -> GroundingExample:
    number = shuffle.shuffled(index, length=len(self), seed=seed)
    rng = np.random.Generator(np.random.PCG64(shuffle.mix(seed, 2, index)))
    video_id = self._videos[number]
    video, own = self._features[video_id], self._by_video[video_id]
    segments = {i: self._segments(i) for i in own}
    window = random_window(
      video,
      self._options,
      anchors=np.concatenate(list(segments.values())),
      rng=rng,
    )
    moments = []
    for position in rng.permutation(len(own)):
      seen, is_kept = see_segments(
        segments[own[position]],
        window,
        total=len(video.features),
        min_visible_share=self._options.min_visible_share,
      )
      if is_kept.all() and len(moments) < self._num_own:
        moments.append(self._asked(own[position], seen, video, window))
    nothing = np.zeros((0, 2), np.float32)
    absent = self._strangers.draw(video_id, count=self._num_absent, rng=rng)
    moments += [
      _Moments(i, nothing, np.zeros(self._options.max_length, np.float32))
      for i in absent
    ]
    return GroundingExample(
      *pad_features(video, window, self._options.max_length), tuple(moments)
    )

  def _segments(self, index: int) -> np.ndarray:
    query = self.queries[index]
    seconds = np.asarray(query.windows, np.float64).reshape(-1, 2)
    return self._features[query.video_id].grid.to_grid(seconds)

  def _asked(self, index, segments, video, window) -> _Moments:
    saliency = np.zeros(self._options.max_length, np.float32)
    steps = window.start + np.arange(window.length)
    saliency[: window.length] = queries.snippet_saliency(
      self.queries[index], video.grid.to_seconds(steps)
    )
    return _Moments(index, segments, saliency)

  def collate(
    self, examples: Sequence[GroundingExample], *, batch_size: int
  ) -> GroundingBatch:
    """Pads to `batch_size` videos of as many queries, valid False."""
    width = self._features[self._videos[0]].features.shape[1]
    length = self._options.max_length
    rows = (batch_size, self._num_own + self._num_absent)
    batch = GroundingBatch(
      features=np.zeros((batch_size, length, width), np.float32),
      mask=np.zeros((batch_size, length), np.bool_),
      query=np.zeros((*rows, *self._vectors.vectors.shape[1:]), np.float32),
      query_mask=np.zeros((*rows, self._vectors.mask.shape[1]), np.bool_),
      segments=np.zeros((*rows, self._max_windows, 2), np.float32),
      segment_mask=np.zeros((*rows, self._max_windows), np.bool_),
      saliency=np.zeros((*rows, length), np.float32),
      is_absent=np.zeros(rows, np.bool_),
      valid=np.zeros(rows, np.bool_),
      query_index=np.full(rows, -1, np.int32),
    )
    for row, example in enumerate(examples):
      batch.features[row] = example.features
      batch.mask[row] = example.mask
      for place, moments in enumerate(example.moments):
        at, count = (row, place), len(moments.segments)
        batch.query[at] = self._vectors.vectors[self._rows[moments.index]]
        batch.query_mask[at] = self._vectors.mask[self._rows[moments.index]]
        batch.segments[at][:count] = moments.segments
        batch.segment_mask[at][:count] = True
        batch.saliency[at] = moments.saliency
        batch.is_absent[at] = not count
        batch.valid[at] = True
        batch.query_index[at] = moments.index
    return batch


def text_rows(
  asked: Sequence[queries.GroundingQuery], vectors: queries.QueryVectors
) -> list[int]:
  """Returns the row of each query's text.

  Raises:
    FeatureError: texts have no vectors.
  """
  rows = {text: row for row, text in enumerate(vectors.texts)}
  unknown = [query.text for query in asked if query.text not in rows]
  if unknown:
    raise FeatureError(
      f"{len(unknown)} queries have no token vectors, e.g. {unknown[0]!r}; "
      "encode unique_texts of all queries"
    )
  return [rows[query.text] for query in asked]
