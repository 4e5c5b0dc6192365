"""A localizer from public files alone: features and annotation JSON."""

import json

import numpy as np
import pytest

from clap_jax import main
from clap_jax.data import annotated_videos, feature_reader
from clap_jax.evaluation import localization, results
from clap_jax.models import localizer
from clap_jax.types import Detections
from configs import localization_hapt
from tests.trainers import toy_features

FPS = 24000 / 1001
CLASSES = ("Jump", "Run")


def write_files(directory, *, num_videos=8, stride=16, window=16, prefix="v_"):
  """features/v_<id>.npy and annotations.json; the classes can be read off."""
  (directory / "features").mkdir()
  rng = np.random.default_rng(0)
  database = {}
  for number in range(num_videos):
    name, duration = f"video{number}", 20.0 + number
    segments = [(2.25, 7.5), (10.0, 16.125)]
    count = int((duration * FPS - window) // stride) + 1
    seconds = (np.arange(count) * stride + window / 2) / FPS
    features = rng.normal(0, 0.1, (count, 6))
    for label, (start, end) in enumerate(segments):
      features[(seconds >= start) & (seconds < end), label] += 3.0
    np.save(directory / "features" / f"{prefix}{name}.npy", features)
    database[name] = {
      "subset": "training" if number < num_videos - 3 else "validation",
      "duration": duration,
      "fps": FPS,
      "annotations": [
        {"label": CLASSES[i], "segment": list(s)}
        for i, s in enumerate(segments)
      ],
    }
  path = directory / "annotations.json"
  path.write_text(json.dumps({"version": "x", "database": database}))
  return path


def train(directory, config, *overrides):
  arguments = [
    "train",
    f"--config=configs/{config}.py:tiny",
    f"--workdir={directory}/run",
    f"--config.data.features_dir={directory}/features",
    f"--config.data.annotations={directory}/annotations.json",
    f"--json={directory}/out.json",
    *overrides,
  ]
  return main.main(arguments)


def test_features_and_json_are_enough(tmp_path):
  write_files(tmp_path)
  (tmp_path / "features" / "v_video7.npy").unlink()
  overrides = [
    "--config.data.files.fps=23.976023976",
    "--config.data.on_missing=skip",
    "--config.pyramid.block=conv",
    "--config.decode.num_candidates=200",
    "--config.decode.num_kept=20",
  ]
  assert train(tmp_path, "localization_activitynet", *overrides) == 0
  rows = results.read(tmp_path / "run")
  trained = {row["metric"]: row["value"] for row in rows}
  assert 0 <= trained["average_map"] <= 1
  card = rows[0]["card"]
  assert card["num_evaluated"] == 2
  assert card["missing"] == ["video7"] and card["num_ground_truths"] == 6
  assert "v_{id}.npy, 16 frames every" in card["notes"][0]
  protocol = card["protocol"]
  code = main.main(
    [
      "score",
      f"{tmp_path}/run/predictions.json",
      f"--ground_truth={tmp_path}/annotations.json",
      f"--protocol={protocol}",
      "--subset=validation",
      f"--json={tmp_path}/score.json",
    ]
  )
  assert code == 0
  scored = json.loads((tmp_path / "score.json").read_text())["metrics"]
  assert scored == pytest.approx(trained, abs=1e-12)


def test_annotations_as_a_dataset(tmp_path):
  path = write_files(tmp_path)
  videos = annotated_videos.AnnotatedVideos(path)
  assert videos.name == "annotations" and videos.label_names == CLASSES
  assert videos.splits == ("training", "validation")
  first = videos.examples("train")[0]  # a synonym
  assert (first.id, first.duration_sec, first.fps) == ("video0", 20.0, FPS)
  np.testing.assert_array_equal(first.segments, [(2.25, 7.5), (10.0, 16.125)])
  np.testing.assert_array_equal(first.labels, [0, 1])
  without = annotated_videos.AnnotatedVideos(path, ignored_labels=("Jump",))
  assert without.label_names == ("Run",)
  np.testing.assert_array_equal(without.examples("training")[0].labels, [0])
  with pytest.raises(ValueError, match="it has training, validation"):
    videos.examples("test")
  with pytest.raises(FileNotFoundError, match=r"data\.annotations"):
    annotated_videos.AnnotatedVideos(tmp_path / "no.json")
  path.write_text(json.dumps({"a": {"annotations": [], "subset": "train"}}))
  with pytest.raises(ValueError, match=r"1 videos have no duration .*\['a'\]"):
    annotated_videos.AnnotatedVideos(path)


def reader(directory, **changes):
  write_files(directory)
  config = localization_hapt.get_config("tiny")
  config.data.annotations = str(directory / "annotations.json")
  config.data.features_dir = str(directory / "features")
  config.data.files = {
    "names": ("v_{id}.npy",),
    "timing": "frames",
    "stride_frames": 16.0,
    "window_frames": 16.0,
  }
  values = config.data.to_dict() | changes
  files = feature_reader.feature_files.FeatureFiles(**values.pop("files"))
  return feature_reader.FeatureReader(
    feature_reader.FeatureData(**values, files=files)
  )


def test_held_out_and_ignored_videos(tmp_path):
  chosen = reader(tmp_path, holdout="video(1|3)$", ignored_videos=("video6",))
  ids = {s: [i.id for i in chosen.examples(s)] for s in ("training", "holdout")}
  assert ids == {
    "training": ["video0", "video2", "video4"],
    "holdout": ["video1", "video3"],
  }
  assert [i.id for i in chosen.examples("validation")] == ["video5", "video7"]
  card = chosen.card("validation", task="detection", protocol="hapt")
  assert card["notes"][-1] == "without video6"


def test_an_empty_holdout_says_so(tmp_path):
  with pytest.raises(ValueError, match=r"'holdout' is left; .*data\.holdout"):
    reader(tmp_path, holdout="nobody").examples("holdout")


def test_standardization_is_over_the_training_split(tmp_path):
  chosen = reader(tmp_path, holdout="video1$", standardize=True)
  values = chosen.standardization()
  rows = np.concatenate(
    [
      chosen.features("training")[i].features
      for i in ("video0", "video2", "video3", "video4")
    ]
  )
  np.testing.assert_allclose(values["mean"], rows.mean(axis=0), rtol=1e-4)
  np.testing.assert_allclose(values["deviation"], rows.std(axis=0), rtol=1e-4)


def test_evaluation_takes_long_videos_whole(tmp_path):
  chosen = reader(tmp_path, max_length=9)
  sources = chosen.evaluation_sources("training")
  assert len(sources) == 1
  assert sources[0][0].features.shape == (36, 6)
  assert sum(len(source) for source in sources) == 5


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"dataset": "toy"}, "either dataset or annotations"),
    ({"holdout": "("}, "bad regex"),
  ],
)
def test_what_does_not_go_together(changes, message):
  values = localization_hapt.get_config("tiny").data.to_dict()
  values["files"] = feature_reader.feature_files.FeatureFiles()
  with pytest.raises(ValueError, match=message):
    feature_reader.FeatureData(**(values | changes))


def test_windows_of_a_video_are_merged(tmp_path):
  """Every window says the same two seconds: one detection remains."""
  chosen = reader(tmp_path, max_length=8, length="windows")
  (source,) = chosen.evaluation_sources("validation")
  assert len(source) > len(chosen.examples("validation"))

  def predict(batch):
    rows = len(batch.video_index)
    starts = np.array(
      [source.starts[i] if i >= 0 else 0 for i in batch.video_index]
    )
    segments = np.zeros((rows, 2, 2), np.float32)
    segments[:, 0] = np.array([6.0, 9.0]) - starts[:, None]
    return Detections(
      segments=segments,
      scores=np.tile(np.float32([0.9, 0.0]), (rows, 1)),
      labels=np.ones((rows, 2), np.int32),
      mask=np.tile([True, False], (rows, 1)),
    )

  decode = localizer.DecodeConfig(num_kept=3, sigma=0.1, min_score=0.01)
  table = localization.detections(
    chosen,
    toy_features.FixedPredictor(predict),
    None,
    "validation",
    decode=decode,
  )
  grid = chosen.features("validation")["video5"].grid
  assert len(table) == 3  # one of each video
  for segment in table.segments:
    np.testing.assert_allclose(segment, grid.to_seconds(np.array([6.0, 9.0])))
  np.testing.assert_allclose(table.score, 0.9)
