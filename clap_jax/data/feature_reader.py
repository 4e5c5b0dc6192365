"""Reads frozen features for the trainers of downstream tasks."""

import dataclasses
import functools
import re
import sys
from collections.abc import Callable, Mapping

from clap_jax import config as config_lib
from clap_jax.data import (
  annotated_videos,
  class_texts,
  duration_checks,
  feature_files,
  feature_sources,
  feature_windows,
  features,
  grounding_source,
  queries,
  records,
)
from clap_jax.data.features import VideoFeatures
from clap_jax.metrics import card
from clap_jax.storage import locations
from clap_jax.storage import metadata as metadata_lib

EXTRACTION_FILE = "extracted.json"  # what the features were made with
TEXTS_FILE = "texts/vectors.npz"  # token vectors of all captions
CLASSES_FILE = "texts/classes.npz"  # class names in the shared space
HOLDOUT_SPLIT = "holdout"


@dataclasses.dataclass(frozen=True)
class FeatureData:
  """Features and annotations of a head.

  Annotations come from a built dataset or an ActivityNet-style JSON file;
  features from `clap extract` or from files that `files` describes. All
  combinations are valid.
  """

  features_dir: str
  train_split: str
  selection_split: str | None  # evaluated during training; None for none
  eval_split: str  # evaluated once, at the end
  batch_size: int = config_lib.ranged(minimum=1)
  max_length: int = config_lib.ranged(minimum=8)  # snippets
  crop_probability: float = config_lib.ranged(minimum=0.0, maximum=1.0)
  num_threads: int = config_lib.ranged(minimum=0)
  dataset: str | None = None  # as `clap build` names it
  data_dir: str = "data"  # of `clap build`
  annotations: str | None = None  # JSON or a table, instead of a dataset
  durations: tuple[str, ...] = ()  # tables of id, length; for annotations
  files: feature_files.FeatureFiles | None = None  # None: of `clap extract`
  # Sequences of another length than max_length: padded (longer ones cropped in
  # training and whole in evaluation); interpolated to it; or, in evaluation,
  # cut to windows that overlap by half.
  length: str = config_lib.choice("pad", "resize", "windows", default="pad")
  # With "windows", training takes those windows too, of which each must hold
  # this share of a segment; 0 for crops at random.
  whole_share: float = config_lib.ranged(default=0.0, minimum=0.0, maximum=1.0)
  min_crop_share: float = config_lib.ranged(default=0.9, above=0.0, maximum=1.0)
  # Minimum share of a segment for a training crop to keep it.
  min_visible_share: float = config_lib.ranged(
    default=0.5, above=0.0, maximum=1.0
  )
  standardize: bool = False  # each channel, over the training split
  on_missing: str = config_lib.choice("raise", "skip", default="raise")
  holdout: str | None = None  # regex: training videos of the split "holdout"
  ignored_labels: tuple[str, ...] = ()  # neither learned nor scored
  ignored_videos: tuple[str, ...] = ()  # neither learned nor scored
  # Share of a video's duration by which its features may end early or late.
  coverage_tolerance: float = config_lib.ranged(default=0.2, minimum=0.0)

  def __post_init__(self):
    if (self.dataset is None) == (self.annotations is None):
      raise ValueError(
        "give either dataset or annotations, got "
        f"{self.dataset!r} and {self.annotations!r}."
      )
    if self.whole_share and self.length != "windows":
      raise ValueError(
        f"whole_share {self.whole_share} needs length 'windows', got "
        f"{self.length!r}."
      )
    if self.ignored_labels and self.annotations is None:
      raise ValueError("ignored_labels belong to annotations, not a dataset.")
    try:
      re.compile(self.holdout or "")
    except re.error as error:
      raise ValueError(
        f"holdout: bad regex {self.holdout!r}: {error}."
      ) from None

  def check_plain(self, task: str) -> None:
    """Raises a ValueError for options that only localization supports."""
    if self.standardize or self.length == "windows":
      raise ValueError(
        f"{task} neither standardizes features nor cuts windows: got "
        f"data.standardize {self.standardize} and data.length {self.length!r}."
      )


@dataclasses.dataclass(frozen=True)
class FeatureReader:
  """Joins annotations with features, split by split."""

  config: FeatureData

  @functools.cached_property
  def dataset(self) -> records.Dataset | annotated_videos.AnnotatedVideos:
    config = self.config
    if config.dataset is not None:
      return records.open_dataset(config.data_dir, config.dataset)
    assert config.annotations is not None  # one of the two, see FeatureData
    return annotated_videos.AnnotatedVideos(
      config.annotations,
      ignored_labels=config.ignored_labels,
      duration_files=config.durations,
    )

  @functools.cached_property
  def extraction(self) -> dict:
    """Returns the metadata of the features, as far as known."""
    if self.config.files is not None:
      files = dataclasses.asdict(self.config.files)
      return {"encoder": self.config.files.encoder, "files": files}
    path = locations.at(self.config.features_dir) / EXTRACTION_FILE
    if not path.is_file():
      raise FileNotFoundError(
        f"{self.config.features_dir} holds no extracted features (no "
        f"{EXTRACTION_FILE}). Run `clap extract` first, or correct "
        "data.features_dir; imported features need a section "
        "data.files, see configs/localization_activitynet.py."
      )
    metadata = metadata_lib.read(path.parent, path.name)
    if not metadata.get("finished", True):
      raise ValueError(
        f"`clap extract` has not finished {self.config.features_dir}: run it "
        "again; existing files are kept."
      )
    # Ids alone are ambiguous: every size of a dataset counts from zero. An
    # annotation file has no name to compare.
    built = self.config.annotations is None
    if built and metadata["dataset"] != self.dataset.name:
      raise ValueError(
        f"{self.config.features_dir} holds features of {metadata['dataset']}, "
        f"but data.dataset is {self.dataset.name}; correct one of them."
      )
    return metadata

  @functools.cached_property
  def options(self) -> feature_windows.SequenceOptions:
    return feature_windows.SequenceOptions(
      max_length=self.config.max_length,
      crop_probability=self.config.crop_probability,
      min_crop_share=self.config.min_crop_share,
      min_visible_share=self.config.min_visible_share,
    )

  def examples(self, split: str) -> tuple[records.ExampleInfo, ...]:
    """Returns the videos of a split; "holdout" is a part of "train".

    Raises:
      ValueError: no video is left.
    """
    config = self.config
    is_holdout = split == HOLDOUT_SPLIT and config.holdout is not None
    source = config.train_split if is_holdout else split
    infos = self.dataset.examples(source)
    if config.holdout is not None and source == config.train_split:
      found = {i.id for i in infos if re.search(config.holdout, i.id)}
      infos = [info for info in infos if (info.id in found) == is_holdout]
    kept = tuple(i for i in infos if i.id not in config.ignored_videos)
    if not kept:
      raise ValueError(
        f"no video of the split {split!r} is left; correct data.holdout "
        f"({config.holdout!r}) or data.ignored_videos."
      )
    return kept

  def features(self, split: str) -> Mapping[str, VideoFeatures]:
    """Returns the features of a split's videos.

    Excludes videos that extraction skipped, whose features disagree with their
    duration and, in training, whose annotations do.

    Raises:
      FeatureError: features are missing or damaged, or disagree with the
        durations of more than a few videos.
      DataCheckError: more than a few videos have unusable annotations.
    """
    if split not in self._loaded:
      loaded, left_out = self._load(split), self.unfit_features
      left_out[split] = duration_checks.duration_mismatches(
        loaded,
        self.examples(split),
        tolerance=self.config.coverage_tolerance,
        place=f"{self.config.features_dir}, split {split!r}",
      )
      gone = dict(left_out[split])
      if split == self.config.train_split:
        gone |= self.unfit_annotations(split)
      for video, reason in gone.items():
        print(f"left out of {split}: {video}: {reason}", file=sys.stderr)
      self._loaded[split] = (
        duration_checks.ExcludingVideos(loaded, gone) if gone else loaded
      )
    return self._loaded[split]

  @functools.cached_property
  def _loaded(self) -> dict[str, Mapping[str, VideoFeatures]]:
    return {}

  @functools.cached_property
  def unfit_features(self) -> dict[str, dict[str, str]]:
    """Returns the reason by split and video of features left out so far."""
    return {}

  def unfit_annotations(self, split: str) -> dict[str, str]:
    """Returns the problem of the annotations of each video, by id.

    Raises:
      DataCheckError: more than a few videos have problems.
    """
    infos = self.examples(split)
    return duration_checks.annotation_problems(
      self.spans(split),
      {info.id: info.duration_sec for info in infos},
      place=f"split {split!r}",
    )

  def spans(self, split: str) -> dict[str, list[tuple[float, float]]]:
    """Returns labelled segments and captions by video id, in seconds."""
    return {
      info.id: [
        *((float(start), float(end)) for start, end in info.segments),
        *((start, end) for start, end, _ in info.captions),
      ]
      for info in self.examples(split)
    }

  def check(
    self, count: Callable[[str], int], *, what: str, split: str | None = None
  ) -> None:
    """Checks the splits that a run reads, before its first step.

    Args:
      count: maps a split to its number of items to train on or score.
      what: name of the counted items.
      split: the only split to check, for `clap eval --split`; None for all that
        the config names.

    Raises:
      ValueError: lists every problem: a split is missing, has nothing to score,
        or its features and annotations cannot be used.
    """
    flags = {"--split": split}
    if split is None:
      flags = duration_checks.split_flags(self.config)

    def usable(name: str) -> int:
      self.unfit_annotations(name)
      self.features(name)
      return count(name)

    duration_checks.check_counts(
      flags,
      count=usable,
      what=f"{what} in a video with features",
      choices=self.split_names,
    )

  @property
  def split_names(self) -> tuple[str, ...]:
    return tuple(self.dataset.splits)

  def num_segments(self, split: str) -> int:
    """Returns the number of labelled segments in videos with features."""
    have = self.features(split)
    return sum(len(i.labels) for i in self.examples(split) if i.id in have)

  def _load(self, split: str) -> Mapping[str, VideoFeatures]:
    config, dataset = self.config, self.dataset
    is_annotated = isinstance(dataset, annotated_videos.AnnotatedVideos)
    num_steps = config.max_length if config.length == "resize" else None
    if config.files is not None:
      return feature_files.FileFeatures(
        config.features_dir,
        self.examples(split),
        files=config.files,
        num_steps=num_steps,
        covered_sec=dataset.covered_sec() if is_annotated else None,
        on_missing=config.on_missing,
      )
    ids = [info.id for info in self.examples(split)]
    failed = {entry["id"] for entry in self.extraction.get("failed", ())}
    loaded = features.load_split_features(
      config.features_dir,
      [i for i in ids if i not in failed],
      on_missing=config.on_missing,
    )
    if num_steps is None:
      return loaded
    return {
      video_id: feature_files.resized(video, num_steps)
      for video_id, video in loaded.items()
    }

  def num_queries(self, split: str) -> int:
    """Returns the number of queries on videos with features.

    Raises:
      FeatureError: the text of a query has no vectors.
    """
    asked, have = self.grounding_split(split).queries, self.features(split)
    grounding_source.text_rows(asked, self.texts)
    return sum(query.video_id in have for query in asked)

  def localization_source(self, split) -> feature_sources.LocalizationSource:
    whole_share = self.config.whole_share
    return feature_sources.LocalizationSource(
      self.examples(split),
      self.features(split),
      options=self.options,
      window_overlap=0.5 if whole_share else None,
      whole_share=whole_share,
    )

  def evaluation_sources(
    self,
    split,
    *,
    takes_any_length: bool = True,
    padded_length: Callable[[int], int] | None = None,
  ) -> list[feature_sources.LocalizationSource]:
    """Returns sources that cover the split, each of one padded length.

    Padded sequences keep their length. With the length mode "windows", and for
    a head of fixed length, they are cut to windows.

    Args:
      takes_any_length: whether the head takes sequences of any length.
      padded_length: maps a number of steps to its padded length; None for
        max_length, doubled as often as needed.
    """
    if padded_length is None:
      padded_length = functools.partial(
        feature_windows.doubled_length, max_length=self.config.max_length
      )
    infos, loaded = self.examples(split), self.features(split)
    if self.config.length == "windows" or not takes_any_length:
      return [
        feature_sources.LocalizationSource(
          infos, loaded, options=self.options, window_overlap=0.5
        )
      ]
    buckets: dict[int, list[records.ExampleInfo]] = {}
    for info in infos:
      if info.id in loaded:
        length = padded_length(len(loaded[info.id].features))
        buckets.setdefault(length, []).append(info)
    if not buckets:
      raise features.FeatureError(f"none of {len(infos)} videos has features")
    return [
      feature_sources.LocalizationSource(
        buckets[length],
        loaded,
        options=dataclasses.replace(self.options, max_length=length),
      )
      for length in sorted(buckets)
    ]

  def standardization(self) -> dict[str, list[float]] | None:
    """Returns the training split's statistics; None if not configured."""
    if not self.config.standardize:
      return None
    return features.standardization(self.features(self.config.train_split))

  def grounding_split(self, split: str) -> queries.GroundingSplit:
    """Returns the queries of a split.

    Raises:
      ValueError: the config has options that only localization supports.
    """
    self.config.check_plain("grounding")
    return queries.caption_split(self.examples(split))

  @functools.cached_property
  def texts(self) -> queries.QueryVectors:
    return queries.read_vectors(self._extracted(TEXTS_FILE))

  @functools.cached_property
  def class_texts(self) -> class_texts.ClassTexts:
    return class_texts.load(self._extracted(CLASSES_FILE))

  def _extracted(self, name: str) -> locations.Location:
    """Returns the place of a file of text vectors."""
    path = locations.at(self.config.features_dir) / name
    if not path.is_file():
      raise FileNotFoundError(
        f"{path} is missing: the dataset has no such texts, or `clap extract` "
        "did not finish or was of an older version. Run it again; existing "
        "files are kept."
      )
    return path

  def card(self, split: str, *, task: str, protocol: str, **facts) -> dict:
    """Returns the evaluation card of a split, including the encoder."""
    infos = self.examples(split)
    have = self.features(split)
    missing = tuple(info.id for info in infos if info.id not in have)
    notes, damaged = [self._note()], ()
    dataset = self.dataset
    if isinstance(dataset, records.Dataset) and split != HOLDOUT_SPLIT:
      subset = dataset.subset_note(split)
      notes += [subset] if subset else []
      damaged = dataset.damaged(split)
      notes += [f"left out: {error}" for error in damaged[:20]]
    notes += duration_checks.notes(self, split)
    notes += facts.pop("notes", ())
    if self.config.ignored_videos:
      notes.append(f"without {', '.join(self.config.ignored_videos)}")
    return card.EvaluationCard(
      protocol=protocol,
      task=task,
      split=split,
      split_hash=card.split_hash(info.id for info in infos),
      num_evaluated=len(have),
      num_missing=len(missing) + len(damaged),
      missing=missing[:20],
      notes=tuple(notes),
      **facts,
    ).to_dict()

  def _note(self) -> str:
    """Describes the encoder of the features."""
    metadata = self.extraction
    if self.config.files is not None:
      length = self.config.length
      if length == "resize":
        length = f"resized to {self.config.max_length}"
      files = self.config.files.describe()
      return f"features of encoder {metadata['encoder']!r}: {files}; {length}"
    return (
      f"features of encoder {metadata['encoder']!r}, seed {metadata['seed']}, "
      f"stride {metadata['stride_sec']} s, parameters "
      f"{metadata['parameters']}, of {metadata['dataset']}"
    )
