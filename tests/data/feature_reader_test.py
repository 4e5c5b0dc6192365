import json

import numpy as np
import pytest

from clap_jax.data import feature_reader, features, records
from clap_jax.storage import metadata as metadata_lib


def reader(directory, **changes):
  values = {
    "dataset": "toy/small",
    "data_dir": str(directory),
    "features_dir": str(directory / "features"),
    "train_split": "train",
    "selection_split": "train",
    "eval_split": "train",
    "batch_size": 4,
    "max_length": 32,
    "crop_probability": 0.0,
    "num_threads": 0,
  }
  config = feature_reader.FeatureData(**(values | changes))
  return feature_reader.FeatureReader(config)


def change_facts(directory, **changes):
  path = directory / "features" / feature_reader.EXTRACTION_FILE
  path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_features_and_annotations_meet(toy_directory):
  source = reader(toy_directory).localization_source("train")
  assert len(source) == 6
  example = source[1]
  assert example.features.shape == (32, 12)
  # Snippets whose middle lies in the second video's first action.
  (start, end), label = example.segments[0], example.labels[0]
  inside = np.arange(int(np.ceil(start)), int(np.ceil(end)))
  assert (example.features[inside, label] > 1.0).all()
  assert example.mask.sum() == 21  # 12 s: (12 - 2) / 0.5 + 1 clips


def test_the_queries_of_a_split_have_vectors(toy_directory):
  split = reader(toy_directory).grounding_split("train")
  texts = reader(toy_directory).texts
  assert len(split.queries) > 2
  assert {query.text for query in split.queries} <= set(texts.texts)
  assert texts.vectors.shape == (len(texts.texts), 5, 8)
  assert texts.mask.any(axis=1).all()


@pytest.mark.parametrize(
  "changes", [{"length": "windows"}, {"standardize": True}]
)
def test_grounding_refuses_what_it_would_ignore(toy_directory, changes):
  with pytest.raises(ValueError, match="grounding neither standardizes"):
    reader(toy_directory, **changes).grounding_split("train")


def test_no_extraction(own_toy_directory):
  (own_toy_directory / "features" / feature_reader.EXTRACTION_FILE).unlink()
  with pytest.raises(FileNotFoundError, match=r"clap extract.*features_dir"):
    reader(own_toy_directory).localization_source("train")


def test_features_of_another_dataset_are_refused(own_toy_directory):
  change_facts(own_toy_directory, dataset="toy/large")
  with pytest.raises(ValueError, match=r"features of toy/large.*toy/small"):
    reader(own_toy_directory).localization_source("train")


def test_no_texts(own_toy_directory):
  (own_toy_directory / "features" / feature_reader.TEXTS_FILE).unlink()
  reader(own_toy_directory).localization_source("train")  # needs none
  with pytest.raises(FileNotFoundError, match=r"vectors\.npz is missing"):
    _ = reader(own_toy_directory).texts


def test_a_video_that_extraction_skipped_is_left_out_and_on_the_card(
  own_toy_directory,
):
  (own_toy_directory / "features" / "video_002.npz").unlink()
  with pytest.raises(features.FeatureError, match=r"1 videos.*video_002"):
    reader(own_toy_directory).localization_source("train")
  change_facts(
    own_toy_directory, failed=[{"id": "video_002", "reason": "broken"}]
  )
  again = reader(own_toy_directory)
  assert len(again.localization_source("train")) == 5
  card = again.card("train", task="detection", protocol="toy", notes=("x",))
  assert card["num_evaluated"] == 5
  assert card["num_missing"] == 1
  assert list(card["missing"]) == ["video_002"]
  assert "'clap', seed 3" in card["notes"][0]
  assert card["notes"][1] == "x"


def test_the_split_hash_does_not_depend_on_what_is_missing(
  toy_directory, own_toy_directory
):
  (own_toy_directory / "features" / "video_002.npz").unlink()
  change_facts(
    own_toy_directory, failed=[{"id": "video_002", "reason": "broken"}]
  )
  hashes = {
    reader(path).card("train", task="detection", protocol="toy")["split_hash"]
    for path in (toy_directory, own_toy_directory)
  }
  assert len(hashes) == 1


def annotation_file(directory):
  """The toy dataset's segments as a file; a video of it was never built."""
  infos = reader(directory).examples("train")
  database = {
    info.id: {
      "subset": "training",
      "duration": float(info.duration_sec),
      "annotations": [
        {"segment": [float(x) for x in span], "label": str(label)}
        for span, label in zip(info.segments, info.labels, strict=True)
      ],
    }
    for info in infos
  }
  database["gone"] = {"subset": "training", "duration": 9.0, "annotations": []}
  path = directory / "annotations.json"
  path.write_text(json.dumps({"database": database}))
  return {
    "dataset": None,
    "annotations": str(path),
    "train_split": "training",
    "on_missing": "skip",
  }


def test_extracted_features_go_with_an_annotation_file(own_toy_directory):
  changes = annotation_file(own_toy_directory)
  made = reader(own_toy_directory, **changes)
  assert len(made.localization_source("training")) == 6
  facts = metadata_lib.encoder_metadata(made.extraction)
  assert facts["encoder_parameters"] == "abc"  # `clap predict` compares it
  card = made.card("training", task="detection", protocol="toy")
  assert list(card["missing"]) == ["gone"]
  assert "parameters abc, of toy/small" in card["notes"][0]


def test_features_of_a_killed_extraction_are_refused(own_toy_directory):
  change_facts(own_toy_directory, finished=False)
  for changes in ({}, annotation_file(own_toy_directory)):
    with pytest.raises(ValueError, match=r"has not finished.*run it again"):
      _ = reader(own_toy_directory, **changes).extraction
  change_facts(own_toy_directory, finished=True)
  assert reader(own_toy_directory).extraction["encoder"] == "clap"


def test_the_annotations_of_a_split_are_read_once(toy_directory, monkeypatch):
  made = reader(toy_directory)
  found = made.examples("train")
  monkeypatch.delattr(records.RecordSource, "metadata")
  assert made.examples("train") == found
