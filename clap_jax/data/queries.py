"""Defines text queries with their moments and token vectors."""

import collections
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from clap_jax.annotations.given_file import SALIENCY_CLIP_SEC
from clap_jax.data import shuffle
from clap_jax.data.clips import normalize_text, visible_captions
from clap_jax.data.records import ExampleInfo
from clap_jax.storage import arrays, locations

TOP_SALIENCY = 4.0  # "Very Good"
_MAX_TEXTS_BYTES = 64 << 30  # vectors of all tokens of a dataset's sentences


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class GroundingQuery:
  """A text and the moments of a video that it describes.

  Attributes:
    id: unique in its split.
    video_id: the video that the text was written for.
    text: a raw sentence.
    windows: (start_sec, end_sec) of every moment, at least one.
    saliency: float32 (clips, annotators), scores from 0 to `TOP_SALIENCY` of
      the successive clips of `SALIENCY_CLIP_SEC`; None if there are no scores.
    labels: classes of the actions in the windows; None if the dataset has no
      classes.
  """

  id: str
  video_id: str
  text: str
  windows: tuple[tuple[float, float], ...]
  saliency: np.ndarray | None = None
  labels: frozenset[int] | None = None


class QueryVectors(NamedTuple):
  """Token vectors of a frozen text tower, one row per distinct text."""

  texts: tuple[str, ...]  # (m,)
  vectors: np.ndarray  # float32 (m, l, e)
  mask: np.ndarray  # bool (m, l)


def read_vectors(path: locations.PathLike) -> QueryVectors:
  """Reads texts and token vectors as written by `clap extract`."""
  with arrays.open_npz(path, max_bytes=_MAX_TEXTS_BYTES) as archive:
    missing = {"texts", "vectors", "mask"} - archive.keys()
    if missing:
      raise ValueError(
        f"{path} lacks {sorted(missing)}; make it with `clap extract`"
      )
    return QueryVectors(
      tuple(str(text) for text in archive["texts"]),
      archive["vectors"],
      archive["mask"],
    )


@dataclasses.dataclass(frozen=True, eq=False)
class GroundingSplit:
  """Queries of a split and metadata of their videos.

  Attributes:
    queries: queries of all videos of the split, including those without
      features.
    duration_sec: duration of each video.
    video_labels: classes that occur in a video; empty without classes.
  """

  queries: tuple[GroundingQuery, ...]
  duration_sec: Mapping[str, float]
  video_labels: Mapping[str, frozenset[int]] = dataclasses.field(
    default_factory=dict
  )


def caption_queries(examples: Sequence[ExampleInfo]) -> list[GroundingQuery]:
  """Returns one query per caption.

  Several annotators may have written the same text for the same moment (TACoS):
  each is a query, with a number in the id from the second on.
  """
  found: list[GroundingQuery] = []
  seen: collections.Counter[str] = collections.Counter()
  for info in examples:
    for start_sec, end_sec, text in visible_captions(info, frozenset()):
      name = f"{info.id}/{start_sec:.3f}-{end_sec:.3f}/{text}"
      seen[name] += 1
      found.append(
        GroundingQuery(
          id=name if seen[name] == 1 else f"{name}/{seen[name]}",
          video_id=info.id,
          text=text,
          windows=((start_sec, end_sec),),
          labels=_labels_within(info, start_sec, end_sec),
        )
      )
  return found


def caption_split(examples: Sequence[ExampleInfo]) -> GroundingSplit:
  """Returns the captions of built examples as queries."""
  return GroundingSplit(
    tuple(caption_queries(examples)),
    {info.id: info.duration_sec for info in examples},
    {info.id: frozenset(map(int, info.labels)) for info in examples},
  )


def _labels_within(
  info: ExampleInfo, start_sec: float, end_sec: float
) -> frozenset[int] | None:
  if not len(info.labels):
    return None
  starts, ends = info.segments[:, 0], info.segments[:, 1]
  inside = np.minimum(ends, end_sec) > np.maximum(starts, start_sec)
  return frozenset(map(int, info.labels[inside]))


def unique_texts(queries: Sequence[GroundingQuery]) -> tuple[str, ...]:
  """Returns the distinct texts in order of first use, for the tower."""
  return tuple(dict.fromkeys(query.text for query in queries))


class NegativeQueries:
  """Draws negative queries: those of other videos that a video lacks.

  Annotations do not state absence, hence a rule: the text must not be among the
  video's own and, if classes are known, the query must describe an action none
  of whose classes occurs in the video.
  """

  def __init__(self, split: GroundingSplit):
    self._queries = split.queries
    self._video_labels = split.video_labels
    self._texts: dict[str, set[str]] = {}
    for query in split.queries:
      own = self._texts.setdefault(query.video_id, set())
      own.add(normalize_text(query.text))

  def is_absent(self, query: GroundingQuery, video_id: str) -> bool:
    """Returns True if the video surely lacks the described moment."""
    own = self._texts.get(video_id, ())
    if query.video_id == video_id or normalize_text(query.text) in own:
      return False
    if query.labels is None:
      return True
    known = self._video_labels.get(video_id, frozenset())
    return bool(query.labels) and not query.labels & known

  def draw(
    self, video_id: str, *, count: int, rng: np.random.Generator
  ) -> list[int]:
    """Draws up to `count` positions of distinct queries, possibly fewer."""
    found: list[int] = []
    tried = rng.integers(0, len(self._queries), size=16 * max(count, 1))
    for index in map(int, tried):
      if len(found) == count:
        break
      if index not in found and self.is_absent(self._queries[index], video_id):
        found.append(index)
    return found


def swapped_queries(
  split: GroundingSplit, *, seed: int
) -> dict[str, list[int]]:
  """Draws as many negative queries for each video as it has queries of its own.

  The result depends only on split and seed, so that every head and encoder is
  evaluated on the same queries.
  """
  strangers = NegativeQueries(split)
  counts: dict[str, int] = {}
  for query in split.queries:
    counts[query.video_id] = counts.get(query.video_id, 0) + 1
  return {
    video_id: strangers.draw(
      video_id,
      count=count,
      rng=np.random.Generator(np.random.PCG64(shuffle.mix(seed, 5, number))),
    )
    for number, (video_id, count) in enumerate(counts.items())
  }


def snippet_saliency(
  query: GroundingQuery, middle_sec: np.ndarray
) -> np.ndarray:
  """Returns saliency (t,) in [0, 1] of the snippet around each time.

  This is the annotators' mean or, without scores, one inside the moments.
  """
  if query.saliency is None:
    inside = np.zeros(len(middle_sec), np.bool_)
    for start_sec, end_sec in query.windows:
      inside |= (middle_sec >= start_sec) & (middle_sec < end_sec)
    return inside.astype(np.float32)
  clip = np.floor(middle_sec / SALIENCY_CLIP_SEC).astype(np.int64)
  mean = query.saliency.mean(axis=1) / TOP_SALIENCY
  return mean[clip.clip(0, len(mean) - 1)].astype(np.float32)


def clip_saliency(
  saliency: np.ndarray, middle_sec: np.ndarray, *, duration_sec: float
) -> np.ndarray:
  """Interpolates snippet scores (t,) to clips of `SALIENCY_CLIP_SEC`.

  Linear in time between the middles of the snippets.
  """
  num_clips = max(1, math.floor(duration_sec / SALIENCY_CLIP_SEC + 1e-6))
  clip_sec = (np.arange(num_clips) + 0.5) * SALIENCY_CLIP_SEC
  return np.interp(clip_sec, middle_sec, saliency)
