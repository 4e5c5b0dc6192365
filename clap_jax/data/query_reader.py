"""Reads grounding data from a built dataset or from files."""

import dataclasses
import functools

import numpy as np

from clap_jax import config as config_lib
from clap_jax.data import (
  feature_reader,
  queries,
  query_annotations,
  query_features,
  records,
)
from clap_jax.storage import locations

SELECTION_SPLIT = "selection"


@dataclasses.dataclass(frozen=True, kw_only=True)
class QueryFiles:
  """Annotation files as published; see data.query_annotations.

  Attributes:
    files: the annotation file of each split.
    texts: output of `clap texts` for all sentences of these files, or files of
      each query's token vectors by its {id}, see data.query_features.
    durations: CSV files with the columns id and length, for annotations without
      durations.
    held_out: without a validation split: a file of video ids, or a published
      list by name, whose videos move from the training split to the split
      "selection".
  """

  files: dict[str, str]
  texts: str
  durations: tuple[str, ...] = ()
  held_out: str | None = None

  def __post_init__(self):
    if self.held_out is not None and SELECTION_SPLIT in self.files:
      raise ValueError(
        f"held_out makes the split {SELECTION_SPLIT!r}, for which there is a "
        "file as well; give one of them."
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class GroundingData(feature_reader.FeatureData):
  """Features, and the number of queries per video of a batch."""

  selection_split: str  # calibrates absence
  queries_per_video: int = config_lib.ranged(minimum=1)
  absent_per_video: int = config_lib.ranged(minimum=0)  # of other videos
  queries: QueryFiles | None = None  # instead of a built dataset's captions
  # Output of `clap texts` for the captions of `annotations`; None for the texts
  # that `clap extract` wrote with the features.
  texts: str | None = None

  def __post_init__(self):
    super().__post_init__()
    self.check_plain("grounding")
    if self.queries is None:
      return
    if self.texts is not None:
      raise ValueError("give either texts or queries.texts, not both.")
    if self.files is None or self.dataset is None:
      raise ValueError(
        "queries of annotation files need a section files that says how the "
        "features are laid out, and in dataset the name for the results."
      )
    if self.eval_split == self.selection_split:
      raise ValueError(
        f"the split {self.eval_split!r} cannot both select and be reported; "
        "see held_out."
      )


@dataclasses.dataclass(frozen=True)
class _Named:
  """A named dataset without records."""

  name: str


class QueryReader(feature_reader.FeatureReader):
  """Joins annotation files with feature files, split by split."""

  config: GroundingData

  @functools.cached_property
  def dataset(self) -> _Named:
    assert self.config.dataset is not None  # see GroundingData
    return _Named(self.config.dataset)

  @property
  def _given(self) -> QueryFiles:
    assert self.config.queries is not None  # see open_reader
    return self.config.queries

  def examples(self, split: str) -> tuple[records.ExampleInfo, ...]:
    """Returns the videos of the queries; they have no actions."""
    return tuple(
      records.ExampleInfo(
        index=index,
        id=video_id,
        fps=0.0,
        duration_sec=duration_sec,
        num_frames=0,
        height=0,
        width=0,
        segments=np.zeros((0, 2)),
        labels=np.zeros(0, np.int32),
        captions=(),
        background=np.zeros((0, 2)),
      )
      for index, (video_id, duration_sec) in enumerate(
        self.grounding_split(split).duration_sec.items()
      )
    )

  @property
  def split_names(self) -> tuple[str, ...]:
    own = () if self._given.held_out is None else (SELECTION_SPLIT,)
    return (*self._given.files, *own)

  def spans(self, split: str) -> dict[str, list[tuple[float, float]]]:
    """Returns the moments of queries by video id, in seconds."""
    asked = self.grounding_split(split)
    spans = {video: [] for video in asked.duration_sec}
    for query in asked.queries:
      spans[query.video_id] += query.windows
    return spans

  @functools.cached_property
  def _splits(self) -> dict[str, queries.GroundingSplit]:
    """Returns the splits read so far."""
    return {}

  def grounding_split(self, split: str) -> queries.GroundingSplit:
    """Returns the queries of a split.

    Raises:
      ValueError: the split has no file.
    """
    if split not in self._splits:
      self._splits |= self._read(split)
    return self._splits[split]

  def _read(self, split: str) -> dict[str, queries.GroundingSplit]:
    given, train = self._given, self.config.train_split
    held_out = given.held_out if split in (train, SELECTION_SPLIT) else None
    name = split if held_out is None else train
    if name not in given.files:
      raise ValueError(
        f"found no annotation file of the split {name!r}; queries.files "
        f"has {', '.join(given.files)}."
      )
    found = query_annotations.read_split(
      given.files[name], duration_files=given.durations
    )
    if held_out is None:
      return {split: found}
    ids = query_annotations.read_ids(held_out)
    rest, out = query_annotations.divided(found, ids)
    if not rest.queries or not out.queries:
      raise ValueError(
        f"data.queries.held_out {held_out!r} leaves {len(rest.queries)} "
        f"queries to train on and {len(out.queries)} to select with; both must "
        "be some."
      )
    return {train: rest, SELECTION_SPLIT: out}

  @functools.cached_property
  def texts(self) -> queries.QueryVectors:
    given = self._given
    if "{id}" not in given.texts:
      return queries.read_vectors(given.texts)
    return query_features.read(
      given.texts,
      (
        query
        for name in self.split_names
        for query in self.grounding_split(name).queries
      ),
    )


class CaptionReader(feature_reader.FeatureReader):
  """Joins captions of a dataset or an annotation file with features."""

  config: GroundingData

  @functools.cached_property
  def texts(self) -> queries.QueryVectors:
    if self.config.texts is None:
      return super().texts
    if not locations.at(self.config.texts).is_file():
      raise FileNotFoundError(
        f"data.texts: {self.config.texts} is missing; write it by `clap texts "
        "--model DIR --queries FILE --out FILE`."
      )
    return queries.read_vectors(self.config.texts)


def open_reader(config: GroundingData) -> feature_reader.FeatureReader:
  """Returns the reader for the config's kind of data."""
  return (CaptionReader if config.queries is None else QueryReader)(config)
