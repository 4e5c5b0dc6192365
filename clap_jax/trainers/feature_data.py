"""Frozen features as the trainers of the downstream tasks read them."""

import dataclasses
import functools
import json
import pathlib

import numpy as np

from clap_jax import config as config_lib
from clap_jax.data import (
  class_texts,
  feature_sources,
  feature_windows,
  features,
  queries,
  records,
)
from clap_jax.metrics import card

EXTRACTION_FILE = "extracted.json"  # what the features were made with
TEXTS_FILE = "texts/vectors.npz"  # token vectors of all captions
CLASSES_FILE = "texts/classes.npz"  # class names in the shared space


@dataclasses.dataclass(frozen=True)
class FeatureData:
  """Where features and annotations come from."""

  dataset: str  # as `clap build` names it
  data_dir: str
  features_dir: str  # what `clap extract` wrote
  train_split: str
  selection_split: str  # looked at during training
  eval_split: str  # looked at once, at the end
  batch_size: int = config_lib.ranged(minimum=1)
  max_length: int = config_lib.ranged(minimum=8)  # snippets
  crop_probability: float = config_lib.ranged(minimum=0.0, maximum=1.0)
  num_threads: int = config_lib.ranged(minimum=0)


@dataclasses.dataclass(frozen=True)
class FeatureReader:
  """Annotations joined with features, split by split."""

  config: FeatureData

  @functools.cached_property
  def dataset(self) -> records.Dataset:
    return records.open_dataset(self.config.data_dir, self.config.dataset)

  @functools.cached_property
  def extraction(self) -> dict:
    """What `clap extract` noted: encoder, seed, stride, training."""
    path = pathlib.Path(self.config.features_dir) / EXTRACTION_FILE
    if not path.is_file():
      raise FileNotFoundError(
        f"{self.config.features_dir} holds no extracted features (no "
        f"{EXTRACTION_FILE}). Run `clap extract` first, or correct "
        "data.features_dir."
      )
    facts = json.loads(path.read_text())
    # Ids alone would not tell: every size of a dataset counts from zero.
    if facts["dataset"] != self.dataset.name:
      raise ValueError(
        f"{self.config.features_dir} holds features of {facts['dataset']}, but "
        f"data.dataset is {self.dataset.name}; correct one of them."
      )
    return facts

  @functools.cached_property
  def options(self) -> feature_windows.SequenceOptions:
    return feature_windows.SequenceOptions(
      max_length=self.config.max_length,
      crop_probability=self.config.crop_probability,
    )

  def examples(self, split: str) -> tuple[records.ExampleInfo, ...]:
    return self.dataset.split(split).metadata(on_corrupt="skip").examples

  def features(self, split: str) -> dict[str, features.VideoFeatures]:
    """Of the split's videos; those that extraction had to skip are missing."""
    ids = [info.id for info in self.examples(split)]
    failed = {entry["id"] for entry in self.extraction.get("failed", ())}
    return features.load_split_features(
      self.config.features_dir, [i for i in ids if i not in failed]
    )

  def localization_source(self, split) -> feature_sources.LocalizationSource:
    return feature_sources.LocalizationSource(
      self.examples(split), self.features(split), options=self.options
    )

  def grounding_split(self, split: str) -> queries.GroundingSplit:
    return queries.caption_split(self.examples(split))

  @functools.cached_property
  def texts(self) -> queries.QueryVectors:
    path = pathlib.Path(self.config.features_dir) / TEXTS_FILE
    if not path.is_file():
      raise FileNotFoundError(
        f"{path} is missing: the dataset has no captions, or `clap extract` "
        "did not finish. Run it again."
      )
    return read_texts(path)

  @functools.cached_property
  def class_texts(self) -> class_texts.ClassTexts:
    path = pathlib.Path(self.config.features_dir) / CLASSES_FILE
    if not path.is_file():
      raise FileNotFoundError(
        f"{path} is missing: these features were extracted by an older "
        "version, or `clap extract` did not finish. Run it again; what is "
        "there is kept."
      )
    return class_texts.load(path)

  def card(self, split: str, *, task: str, protocol: str, **facts) -> dict:
    """The evaluation card of a split, with what made the features."""
    infos = self.examples(split)
    have = self.features(split)
    missing = tuple(info.id for info in infos if info.id not in have)
    extraction = self.extraction
    note = (
      f"features of encoder {extraction['encoder']!r}, seed "
      f"{extraction['seed']}, stride {extraction['stride_sec']} s, "
      f"parameters {extraction['parameters']}"
    )
    subset = self.dataset.subset_note(split)
    notes = (note, *([subset] if subset else []), *facts.pop("notes", ()))
    return card.EvaluationCard(
      protocol=protocol,
      task=task,
      split=split,
      split_hash=card.split_hash(info.id for info in infos),
      num_evaluated=len(have),
      num_missing=len(missing),
      missing=missing[:20],
      notes=notes,
      **facts,
    ).to_dict()


def read_texts(path: pathlib.Path) -> queries.QueryVectors:
  """Texts with their token vectors, as `clap extract` writes them."""
  with np.load(path, allow_pickle=False) as arrays:
    return queries.QueryVectors(
      tuple(str(text) for text in arrays["texts"]),
      arrays["vectors"],
      arrays["mask"],
    )
