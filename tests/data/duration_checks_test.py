"""What is checked of features and annotations before the first step."""

import json

import numpy as np
import pytest

from clap_jax.data import duration_checks, feature_files, feature_reader
from clap_jax.data.features import FeatureError
from clap_jax.trainers import pretrain, registry
from configs import pretrain_sprites
from tests.data import built_dataset

FRAMES = {"fps": 1.0, "stride_frames": 1.0, "window_frames": 1.0}
NAMES = {"training": 20, "validation": 10}  # videos of each subset


def write(directory, *, spans=None, shape=(20, 6), subsets=NAMES, damaged=None):
  """A folder of features and its annotations; returns a reader's changes.

  Args:
    directory: to write into.
    spans: number of a video -> segment, where it is another than [3, 9].
    shape: of every array, or of the number of a video.
    subsets: name -> number of videos.
    damaged: number of a video whose row 2 is NaN.
  """
  database, number = {}, 0
  for subset, count in subsets.items():
    for _ in range(count):
      of_video = shape(number) if callable(shape) else shape
      array = np.random.default_rng(number).normal(size=of_video)
      if number == damaged:
        array[2] = np.nan
      np.save(directory / f"v{number}.npy", array.astype(np.float32))
      segment = (spans or {}).get(number, [3, 9])
      database[f"v{number}"] = {
        "subset": subset,
        "duration": 20.0,
        "annotations": [{"segment": segment, "label": "run"}]
        if segment
        else [],
      }
      number += 1
  path = directory / "annotations.json"
  path.write_text(json.dumps({"database": database}))
  return path


def reader(directory, **changes):
  files = changes.pop("files", FRAMES)
  timing = "frames" if files else "even"
  values = {
    "annotations": str(directory / "annotations.json"),
    "features_dir": str(directory),
    "files": feature_files.FeatureFiles(
      names=("{id}.npy",), timing=timing, **files
    ),
    "train_split": "training",
    "selection_split": None,
    "eval_split": "validation",
    "batch_size": 2,
    "max_length": 32,
    "crop_probability": 0.0,
    "num_threads": 0,
  }
  return feature_reader.FeatureReader(
    feature_reader.FeatureData(**(values | changes))
  )


def check(made):
  made.check(made.num_segments, what="labelled segment")


def test_what_fits_passes(tmp_path):
  write(tmp_path)
  check(reader(tmp_path))
  # The last whole clips may end before the video does.
  check(reader(tmp_path, files=FRAMES | {"window_frames": 2.0}))


@pytest.mark.parametrize(
  ("written", "read", "named"),
  [
    (
      {"subsets": {"Training": 20, "Test": 10}},
      {},
      ("data.eval_split", "'validation'", "Test"),
    ),
    (
      {"subsets": {"training": 20, "validation": 10}},
      {"selection_split": "selection"},
      ("data.selection_split", "'selection'", "training, validation"),
    ),
    (
      {"spans": dict.fromkeys(range(20, 30), None)},
      {"selection_split": "validation"},
      ("data.selection_split and data.eval_split", "no labelled segment"),
    ),
    (
      {"spans": dict.fromkeys(range(20), None)},
      {},
      ("data.train_split", "no labelled segment"),
    ),
    ({"damaged": 0}, {}, ("data.train_split", "v0.npy", "row 2")),
    ({"damaged": 25}, {}, ("data.eval_split", "v25.npy", "row 2")),
    ({"shape": (10, 6)}, {}, ("cover 0 to 10 s of 20 s", "data.files.fps")),
    ({"shape": (40, 6)}, {}, ("cover 0 to 40 s of 20 s", "data.files.fps")),
    # Every video a little too short: another frame rate.
    ({"shape": (17, 6)}, {}, ("cover 0 to 17 s of 20 s", "data.files.fps")),
    (
      {"shape": (16, 20)},
      {},
      ("cover 0 to 16 s of 20 s", "axis_order=dt"),
    ),
    (
      {"shape": lambda number: (16, 20 - number % 2)},
      {},
      ("width 19, others 20", "axis_order=dt"),
    ),
    (
      {"spans": {n: [75, 225] for n in range(30)}},
      {},
      ("segment 75 to 225 s", "frames or milliseconds"),
    ),
    (
      {"spans": {n: [9, 3] for n in range(3)}},
      {},
      ("3 of 20 videos", "segment 9 to 3 s", "data.ignored_videos"),
    ),
    (
      {"spans": {n: [15, 40] for n in range(3)}},
      {},
      ("3 of 20 videos", "segment 15 to 40 s"),
    ),
    ({"spans": {n: [-2, 4] for n in range(3)}}, {}, ("starts before",)),
  ],
)
def test_what_cannot_be_used_is_named(tmp_path, written, read, named):
  write(tmp_path, **written)
  with pytest.raises(ValueError) as error:
    check(reader(tmp_path, **read))
  for text in named:
    assert text in str(error.value), text


def test_all_problems_are_reported_together(tmp_path):
  write(tmp_path, damaged=0, spans=dict.fromkeys(range(20, 30), None))
  with pytest.raises(ValueError, match=r"(?s)v0\.npy.*data\.eval_split"):
    check(reader(tmp_path))


@pytest.mark.parametrize(
  ("written", "reason"),
  [
    ({"shape": lambda n: (8 if n == 3 else 20, 6)}, "8 features cover 0 to 8"),
    ({"spans": {3: [15, 40]}}, "segment 15 to 40 s ends after"),
  ],
)
def test_a_few_videos_are_left_out_of_training(tmp_path, written, reason):
  write(tmp_path, **written)
  made = reader(tmp_path)
  check(made)
  ids = {i.id for i in made.localization_source("training").examples}
  assert ids == {f"v{n}" for n in range(20)} - {"v3"}
  card = made.card("validation", task="detection", protocol="toy")
  assert any("v3" in note and reason in note for note in card["notes"])
  assert card["num_evaluated"] == 10


def test_unfit_features_of_evaluation_count_as_missing(tmp_path):
  write(tmp_path, shape=lambda number: (8 if number == 22 else 20, 6))
  card = reader(tmp_path).card("validation", task="detection", protocol="toy")
  assert (card["num_evaluated"], card["num_missing"]) == (9, 1)
  assert card["missing"] == ["v22"]
  assert any("8 features cover 0 to 8 s" in note for note in card["notes"])


def test_unfit_annotations_of_evaluation_stay_in_the_score(tmp_path):
  write(tmp_path, spans={22: [15, 40]})
  made = reader(tmp_path)
  assert "v22" in made.features("validation")
  card = made.card("validation", task="detection", protocol="toy")
  assert any("v22" in n and "scored as they are" in n for n in card["notes"])


def test_the_tolerance_is_a_key(tmp_path):
  write(tmp_path, shape=(10, 6))
  check(reader(tmp_path, coverage_tolerance=1.0))


def test_evenly_spread_features_cover_their_video(tmp_path):
  write(tmp_path, shape=(7, 6))
  check(reader(tmp_path, files={}))


@pytest.mark.parametrize(
  ("spans", "is_good"),
  [
    ([(0.0, 20.0)], True),
    ([(5.0, 5.0)], True),  # published files have segments of no length
    ([(18.0, 21.6)], True),  # or some that end a little late
    ([(20.5, 21.0)], False),
    ([(1.0, 2.0), (3.0, 2.0)], False),
  ],
)
def test_annotations_of_a_video_of_20_s(spans, is_good):
  assert (duration_checks.annotation_problem(spans, 20.0) is None) == is_good


def test_a_large_split_is_sampled(monkeypatch, tmp_path):
  """The first video and a few others are read, not all."""
  monkeypatch.setattr(duration_checks, "_MAX_PROBED_BYTES", 0)
  monkeypatch.setattr(duration_checks, "_MIN_PROBED_VIDEOS", 4)
  write(tmp_path, damaged=0)
  with pytest.raises(FeatureError, match=r"v0\.npy"):
    reader(tmp_path).features("training")
  write(tmp_path)
  made = reader(tmp_path)
  opened = []
  read = feature_files.FileFeatures.__getitem__
  monkeypatch.setattr(
    feature_files.FileFeatures,
    "__getitem__",
    lambda self, key: opened.append(key) or read(self, key),
  )
  made.features("training")
  assert len(opened) == 4
  assert opened[0] == "v0"


@pytest.mark.parametrize(
  ("counts", "named"),
  [
    ({"train": 5, "validation": 3}, ("data.selection_split", "'selection'")),
    (
      {"train": 5, "validation": 0, "selection": 1},
      ("data.eval_split: got 'validation', which has no segment", "train"),
    ),
  ],
)
def test_splits_of_records(counts, named):
  def count(split):
    if split not in counts:
      raise ValueError(f"unknown split {split!r}")
    return counts[split]

  flags = {
    "data.train_split": "train",
    "data.selection_split": "selection",
    "data.eval_split": "validation",
  }
  with pytest.raises(ValueError, match=named[0]) as error:
    duration_checks.check_counts(
      flags, count=count, what="segment", choices=tuple(counts)
    )
  assert named[1] in str(error.value)


def test_pretraining_checks_its_splits_first(tmp_path):
  built_dataset.write_dataset(tmp_path, num_videos=2)
  config = pretrain_sprites.get_config("tiny")
  config.data.dataset, config.data.data_dir = "toy/small", str(tmp_path)
  with pytest.raises(ValueError, match=r"data\.selection_split.*selection"):
    pretrain.train(registry.resolve(config), tmp_path / "run")
  assert not (tmp_path / "run").exists()
