"""Features of the toy dataset in which the classes can be read off."""

import pathlib

import numpy as np

from clap_jax.data import (
  class_texts,
  feature_reader,
  features,
  queries,
  records,
)
from clap_jax.evaluation import results
from tests.data import built_dataset

WIDTH = 12
GRID = features.FeatureGrid(start_sec=0.0, stride_sec=0.5, clip_sec=2.0)
QUERY_SHAPE = (5, 8)  # tokens, width


def write(directory: pathlib.Path) -> pathlib.Path:
  """DIRECTORY/toy/small and DIRECTORY/features; returns the latter."""
  built_dataset.write_dataset(directory)
  dataset = records.open_dataset(directory, "toy/small")
  out = directory / "features"
  infos = dataset.split("train").metadata().examples
  for number, info in enumerate(infos):
    length = GRID.num_features(info.duration_sec)
    array = np.random.default_rng(number).normal(0, 0.3, (length, WIDTH))
    middle_sec = GRID.to_seconds(np.arange(length))
    for (start, end), label in zip(info.segments, info.labels, strict=True):
      array[(middle_sec >= start) & (middle_sec < end), label] += 2.0
    video = features.VideoFeatures(array.astype(np.float32), GRID)
    features.save_features(out, info.id, video)
  texts = queries.unique_texts(queries.caption_queries(infos))
  rng = np.random.default_rng(0)
  (out / feature_reader.TEXTS_FILE).parent.mkdir()
  np.savez(
    out / feature_reader.TEXTS_FILE,
    texts=np.array(texts),
    vectors=rng.normal(size=(len(texts), *QUERY_SHAPE)).astype(np.float32),
    mask=np.arange(QUERY_SHAPE[0]) < rng.integers(1, 6, (len(texts), 1)),
  )
  names = tuple(reversed(dataset.label_names))
  vectors = rng.normal(size=(len(names) + 1, QUERY_SHAPE[1]))
  vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
  class_texts.save(
    out / feature_reader.CLASSES_FILE,
    class_texts.ClassTexts(
      names,
      vectors[:-1].astype(np.float32),
      vectors[-1].astype(np.float32),
      rng.normal(size=(WIDTH, QUERY_SHAPE[1])).astype(np.float32),
      1 / 0.07,
    ),
  )
  facts = {
    "encoder": "clap",
    "seed": 3,
    "dataset": "toy/small",
    "stride_sec": GRID.stride_sec,
    "parameters": "abc",
    "failed": [],
    "training": {"seen_classes": ["fades", "slides"], "captions": []},
  }
  results.write_json(out / feature_reader.EXTRACTION_FILE, facts)
  return out


def overrides(directory: pathlib.Path, **others) -> dict:
  """What turns a config of a head into one for these features."""
  return {
    "data.dataset": "toy/small",
    "data.data_dir": str(directory),
    "data.features_dir": str(directory / "features"),
    "data.train_split": "train",
    "data.selection_split": "train",
    "data.eval_split": "train",
    "pyramid.dropout_rate": 0.0,
    "head.dropout_rate": 0.0,
  } | others


class FixedPredictor:
  """Stands for evaluation.Predictor: outputs computed from the batch."""

  def __init__(self, function):
    self._function = function

  def place(self, params):
    return params

  rows = None

  def __call__(self, params, batch):
    return self._function(batch)

  of_rows = __call__
