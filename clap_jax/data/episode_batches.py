"""Converts episodes to arrays of query and support features with masks."""

import functools
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from clap_jax.data import class_leakage, feature_windows
from clap_jax.data import episodes as episodes_lib
from clap_jax.data.class_texts import ClassTexts
from clap_jax.data.features import FeatureGrid, VideoFeatures
from clap_jax.data.records import ExampleInfo
from clap_jax.types import EpisodeBatch

_NUM_KEPT = 512  # padded videos in memory


class EpisodeVideo(NamedTuple):
  """A padded video; segments in grid units by class name."""

  features: np.ndarray  # float32 (t, d)
  mask: np.ndarray  # bool (t,); also False where a hidden class is visible
  text: np.ndarray  # float32 (t, c + 1), cosines with all class names
  segments: Mapping[str, np.ndarray]  # (n, 2)

  def action(self, name: str) -> np.ndarray:
    """Returns bool (t,), True where a feature's middle is in the class."""
    return action_mask(self.segments[name], self.mask)


class EpisodeExample(NamedTuple):
  query: EpisodeVideo
  support: tuple[tuple[EpisodeVideo, ...], ...]  # (n, k)
  classes: tuple[str, ...]
  episode_index: int


def action_mask(segments: np.ndarray, mask: np.ndarray) -> np.ndarray:
  """Returns bool (t,), True where a feature's middle is in a segment.

  Segments (n, 2) are in grid units. A segment between two middles takes the
  nearest one, so that no support is empty.
  """
  inside = np.zeros(len(mask), np.bool_)
  middle = np.arange(len(mask))
  for start, end in segments:
    covered = (middle >= start) & (middle < end)
    if not covered.any():
      nearest = np.clip(round((start + end) / 2), 0, len(mask) - 1)
      covered[int(nearest)] = True
    inside |= covered
  return inside & mask


def visible_mask(
  grid: FeatureGrid, length: int, spans: Sequence[class_leakage.Span]
) -> np.ndarray:
  """Returns bool (length,), True where a clip overlaps none of the spans."""
  start_sec = grid.start_sec + grid.stride_sec * np.arange(length)
  visible = np.ones(length, np.bool_)
  for hidden_start_sec, hidden_end_sec in spans:
    visible &= (start_sec >= hidden_end_sec) | (
      start_sec + grid.clip_sec <= hidden_start_sec
    )
  return visible


class EpisodeVideos:
  """Videos prepared for episodes over classes of a dataset."""

  def __init__(
    self,
    examples: Sequence[ExampleInfo],
    features: Mapping[str, VideoFeatures],
    *,
    label_names: Sequence[str],
    max_length: int,
    texts: ClassTexts,
    hidden_names: Collection[str] = (),
  ):
    """Prepares the videos; those without features are left out.

    `hidden_names` are classes excluded from learning: every feature whose clip
    overlaps one of their segments is masked, in query and in support.
    """
    self.label_names = tuple(label_names)
    self.max_length = max_length
    self.examples = [info for info in examples if info.id in features]
    self._infos = {info.id: info for info in self.examples}
    self._features = features
    self._texts = texts
    self._column = {name: i for i, name in enumerate(texts.names)}
    self._visible_names = [n for n in label_names if n not in set(hidden_names)]
    self._hidden_ids = frozenset(map(self.label_names.index, hidden_names))
    options = feature_windows.SequenceOptions(max_length=max_length)
    for info in self.examples:  # detects mismatches of duration early
      feature_windows.whole_window(features[info.id], options, name=info.id)
    # Padded videos with cosines for every class are large: few are cached.
    self.video = functools.lru_cache(maxsize=_NUM_KEPT)(self._make_video)

  def _make_video(self, video_id: str) -> EpisodeVideo:
    video = self._features[video_id]
    whole = feature_windows.Window(0, len(video.features))
    padded, _ = feature_windows.pad_features(video, whole, self.max_length)
    return EpisodeVideo(
      padded,
      self._mask(video_id),
      self._texts.similarities(padded).astype(np.float32),
      self._segments(video_id),
    )

  def _mask(self, video_id: str) -> np.ndarray:
    """Returns bool (t,), True for features that see no hidden class."""
    video, info = self._features[video_id], self._infos[video_id]
    spans = class_leakage.hidden_spans(info, self._hidden_ids)
    visible = visible_mask(video.grid, self.max_length, spans)
    return visible & (np.arange(self.max_length) < len(video.features))

  def _segments(self, video_id: str) -> dict[str, np.ndarray]:
    """Returns segments (n, 2) in grid units by visible class name."""
    info, grid = self._infos[video_id], self._features[video_id].grid
    none = np.zeros((0, 2))
    segments = dict.fromkeys(self._visible_names, none)
    for label in np.unique(info.labels):
      if (name := self.label_names[label]) in segments:
        own = info.segments[info.labels == label].astype(np.float64)
        segments[name] = grid.to_grid(own)
    return segments

  def counts(self) -> dict[str, dict[str, int]]:
    """Returns the number of visible segments by video and class."""
    counts = {}
    for info in self.examples:
      mask = self._mask(info.id)
      counts[info.id] = {
        name: sum(
          bool(action_mask(segment[None], mask).any()) for segment in segments
        )
        for name, segments in self._segments(info.id).items()
      }
    return counts

  def example(
    self, episode: episodes_lib.Episode, index: int
  ) -> EpisodeExample:
    return EpisodeExample(
      self.video(episode.query),
      tuple(
        tuple(self.video(video) for video in videos)
        for videos in episode.support
      ),
      episode.classes,
      index,
    )

  def grid(self, video_id: str) -> FeatureGrid:
    return self._features[video_id].grid

  @property
  def feature_width(self) -> int:
    return self._features[self.examples[0].id].features.shape[1]

  @property
  def max_segments(self) -> int:
    """Returns the maximum number of segments of a query, over all classes."""
    return max(1, *(len(info.segments) for info in self.examples))

  def columns(self, classes: Sequence[str]) -> list[int]:
    """Returns the columns of text cosines: classes, then background."""
    return [*(self._column[name] for name in classes), len(self._column)]

  def collate(
    self,
    examples: Sequence[EpisodeExample],
    *,
    batch_size: int,
    max_segments: int,
  ) -> EpisodeBatch:
    """Pads to `batch_size` rows, episode_index -1.

    With `max_segments` 0 the batch holds no segment of a query: predictions
    cannot depend on them.
    """
    ways, shots = len(examples[0].support), len(examples[0].support[0])
    t, d = examples[0].query.features.shape
    batch = EpisodeBatch(
      query=np.zeros((batch_size, t, d), np.float32),
      query_mask=np.zeros((batch_size, t), np.bool_),
      query_text=np.zeros((batch_size, t, ways + 1), np.float32),
      support=np.zeros((batch_size, ways, shots, t, d), np.float32),
      support_mask=np.zeros((batch_size, ways, shots, t), np.bool_),
      support_action=np.zeros((batch_size, ways, shots, t), np.bool_),
      support_text=np.zeros((batch_size, ways, shots, t, ways + 1), np.float32),
      segments=np.zeros((batch_size, max_segments, 2), np.float32),
      labels=np.zeros((batch_size, max_segments), np.int32),
      segment_mask=np.zeros((batch_size, max_segments), np.bool_),
      episode_index=np.full((batch_size,), -1, np.int32),
    )
    for row, example in enumerate(examples):
      columns = self.columns(example.classes)
      batch.query[row] = example.query.features
      batch.query_mask[row] = example.query.mask
      batch.query_text[row] = example.query.text[:, columns]
      batch.episode_index[row] = example.episode_index
      for way, videos in enumerate(example.support):
        name = example.classes[way]
        for shot, video in enumerate(videos):
          batch.support[row, way, shot] = video.features
          batch.support_mask[row, way, shot] = video.mask
          batch.support_action[row, way, shot] = video.action(name)
          batch.support_text[row, way, shot] = video.text[:, columns]
      if max_segments:
        _fill_segments(batch, row, example)
    return batch


def _fill_segments(batch: EpisodeBatch, row: int, example) -> None:
  count = 0
  for way, name in enumerate(example.classes):
    found = example.query.segments[name]
    stop = count + len(found)
    batch.segments[row, count:stop] = found
    batch.labels[row, count:stop] = way
    batch.segment_mask[row, count:stop] = True
    count = stop


class TrainingEpisodes:
  """Yields endless training episodes, with the query's segments."""

  def __init__(
    self, videos: EpisodeVideos, sampler: episodes_lib.EpisodeSampler
  ):
    self._videos = videos
    self._sampler = sampler
    self._max_segments = videos.max_segments

  def __len__(self) -> int:
    return len(self._sampler.queries)

  def item(self, index: int, *, seed: int) -> EpisodeExample:
    return self._videos.example(
      self._sampler.episode(index, seed=seed), index % (1 << 31)
    )

  def collate(self, examples, *, batch_size: int) -> EpisodeBatch:
    return self._videos.collate(
      examples, batch_size=batch_size, max_segments=self._max_segments
    )


class EvaluationEpisodes:
  """Yields a fixed list of episodes, without the queries' segments."""

  def __init__(
    self, videos: EpisodeVideos, episodes: Sequence[episodes_lib.Episode]
  ):
    self._videos = videos
    self._episodes = episodes

  def __len__(self) -> int:
    return len(self._episodes)

  def __getitem__(self, index: int) -> EpisodeExample:
    return self._videos.example(self._episodes[index], index)

  def collate(self, examples, *, batch_size: int) -> EpisodeBatch:
    return self._videos.collate(examples, batch_size=batch_size, max_segments=0)
