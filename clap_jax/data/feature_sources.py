"""Batches of feature sequences for localization and grounding."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from clap_jax.data import order
from clap_jax.data.clips import visible_captions
from clap_jax.data.feature_windows import (
  SequenceOptions,
  Window,
  pad_features,
  random_window,
  see_segments,
  whole_window,
)
from clap_jax.data.features import FeatureError, VideoFeatures
from clap_jax.data.records import ExampleInfo
from clap_jax.types import GroundingBatch, LocalizationBatch


def padded_length(
  features: Mapping[str, VideoFeatures], *, multiple: int = 1
) -> int:
  """The longest sequence's length, rounded up to a multiple."""
  longest = max(len(video.features) for video in features.values())
  return -(-longest // multiple) * multiple


class LocalizationExample(NamedTuple):
  features: np.ndarray  # float32 (max_length, d)
  mask: np.ndarray  # bool (max_length,)
  segments: np.ndarray  # float32 (n, 2), grid units of the window
  labels: np.ndarray  # int32 (n,)
  video_index: int


class LocalizationSource:
  """Videos with their labelled segments; for training and for evaluation.

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
  ):
    """Videos without features are left out; the caller decides if they may be.

    Raises:
      FeatureError: no example has features.
    """
    self.examples = [info for info in examples if info.id in features]
    if not self.examples:
      raise FeatureError(f"none of {len(examples)} videos has features")
    self._features = features
    self._options = options
    self._segments = []
    for info in self.examples:
      is_kept = np.array(
        [int(label) not in hidden_classes for label in info.labels], np.bool_
      )
      grid = features[info.id].grid
      segments = grid.to_grid(info.segments[is_kept].astype(np.float64))
      self._segments.append((segments.reshape(-1, 2), info.labels[is_kept]))
    self.max_segments = max(1, *(len(spans) for spans, _ in self._segments))

  def __len__(self) -> int:
    return len(self.examples)

  def __getitem__(self, index: int) -> LocalizationExample:
    info = self.examples[index]
    video = self._features[info.id]
    window = whole_window(video, self._options, name=info.id)
    return self._example(index, window)

  def item(self, index: int, *, seed: int) -> LocalizationExample:
    number = order.shuffled(index, length=len(self), seed=seed)
    rng = np.random.Generator(np.random.PCG64(order.mix(seed, 1, index)))
    window = random_window(
      self._features[self.examples[number].id],
      self._options,
      anchors=self._segments[number][0],
      rng=rng,
    )
    return self._example(number, window)

  def _example(self, index: int, window: Window) -> LocalizationExample:
    video = self._features[self.examples[index].id]
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
    width = self._features[self.examples[0].id].features.shape[1]
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class GroundingQuery:
  """A text and the moment that it describes."""

  video_id: str
  text: str
  start_sec: float
  end_sec: float


class QueryVectors(NamedTuple):
  """Token vectors of a frozen text tower, one row per different text."""

  texts: tuple[str, ...]  # (m,)
  vectors: np.ndarray  # float32 (m, l, e)
  mask: np.ndarray  # bool (m, l)


def grounding_queries(
  examples: Sequence[ExampleInfo],
  *,
  hidden_classes: frozenset[int] = frozenset(),
) -> list[GroundingQuery]:
  """One query per caption, but those that overlap a hidden class."""
  return [
    GroundingQuery(
      video_id=info.id, text=text, start_sec=start_sec, end_sec=end_sec
    )
    for info in examples
    for start_sec, end_sec, text in visible_captions(info, hidden_classes)
  ]


def unique_texts(queries: Sequence[GroundingQuery]) -> tuple[str, ...]:
  """The different texts in order of first use; what the tower has to encode."""
  return tuple(dict.fromkeys(query.text for query in queries))


class GroundingExample(NamedTuple):
  features: np.ndarray  # float32 (max_length, d)
  mask: np.ndarray  # bool (max_length,)
  text_row: int
  segment: np.ndarray  # float32 (2,), grid units of the window
  query_index: int


class GroundingSource:
  """Queries with the features of their videos; see `LocalizationSource`."""

  def __init__(
    self,
    queries: Sequence[GroundingQuery],
    features: Mapping[str, VideoFeatures],
    *,
    vectors: QueryVectors,
    options: SequenceOptions,
  ):
    """Queries on videos without features are left out.

    Raises:
      FeatureError: no query is left, or texts have no vectors.
    """
    self.queries = [query for query in queries if query.video_id in features]
    if not self.queries:
      raise FeatureError(f"none of {len(queries)} queries has features")
    self._features = features
    self._vectors = vectors
    self._options = options
    rows = {text: row for row, text in enumerate(vectors.texts)}
    unknown = [q.text for q in self.queries if q.text not in rows]
    if unknown:
      raise FeatureError(
        f"{len(unknown)} queries have no token vectors, e.g. {unknown[0]!r}; "
        "encode unique_texts of all queries"
      )
    self._rows = [rows[query.text] for query in self.queries]

  def __len__(self) -> int:
    return len(self.queries)

  def __getitem__(self, index: int) -> GroundingExample:
    query = self.queries[index]
    video = self._features[query.video_id]
    window = whole_window(video, self._options, name=query.video_id)
    return self._example(index, window)

  def item(self, index: int, *, seed: int) -> GroundingExample:
    """A random crop always keeps the middle of the moment."""
    number = order.shuffled(index, length=len(self), seed=seed)
    rng = np.random.Generator(np.random.PCG64(order.mix(seed, 2, index)))
    window = random_window(
      self._features[self.queries[number].video_id],
      self._options,
      anchors=self._segment(number)[None],
      rng=rng,
    )
    return self._example(number, window)

  def _segment(self, index: int) -> np.ndarray:
    query = self.queries[index]
    seconds = np.asarray([query.start_sec, query.end_sec], np.float64)
    return self._features[query.video_id].grid.to_grid(seconds)

  def _example(self, index: int, window: Window) -> GroundingExample:
    video = self._features[self.queries[index].video_id]
    segments, _ = see_segments(
      self._segment(index)[None],
      window,
      total=len(video.features),
      min_visible_share=self._options.min_visible_share,
    )
    return GroundingExample(
      *pad_features(video, window, self._options.max_length),
      self._rows[index],
      segments[0],
      index,
    )

  def collate(
    self, examples: Sequence[GroundingExample], *, batch_size: int
  ) -> GroundingBatch:
    """Pads to `batch_size` rows with valid False and query_index -1."""
    width = self._features[self.queries[0].video_id].features.shape[1]
    max_length = self._options.max_length
    batch = GroundingBatch(
      features=np.zeros((batch_size, max_length, width), np.float32),
      mask=np.zeros((batch_size, max_length), np.bool_),
      query=np.zeros(
        (batch_size, *self._vectors.vectors.shape[1:]), np.float32
      ),
      query_mask=np.zeros((batch_size, self._vectors.mask.shape[1]), np.bool_),
      segment=np.zeros((batch_size, 2), np.float32),
      valid=np.zeros((batch_size,), np.bool_),
      query_index=np.full((batch_size,), -1, np.int32),
    )
    for row, example in enumerate(examples):
      batch.features[row] = example.features
      batch.mask[row] = example.mask
      batch.query[row] = self._vectors.vectors[example.text_row]
      batch.query_mask[row] = self._vectors.mask[example.text_row]
      batch.segment[row] = example.segment
      batch.valid[row] = True
      batch.query_index[row] = example.query_index
    return batch
