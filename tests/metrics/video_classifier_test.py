"""Outside class scores: every form, and what they do to proposals."""

import json

import numpy as np
import pytest

from clap_jax.annotations.problems import MalformedFileError
from clap_jax.metrics import video_classifier
from clap_jax.metrics.score import Classifier, score
from clap_jax.metrics.tables import DetectionTable

PROPOSALS = DetectionTable.from_columns(
  video=["v_a", "v_a", "b", "v_a"],
  label=["x", "y", "x", "x"],
  start_sec=[0.0, 0.0, 3.0, 5.0],
  end_sec=[2.0, 2.0, 4.0, 6.0],
  score=[0.4, 0.8, 0.5, 0.1],
)
FORMS = {
  "lists.json": {
    "results": {
      "a": [{"label": "jump", "score": 0.7}, {"label": "run", "score": 0.2}],
      "b": [{"label": "run", "score": 0.9}],
    }
  },
  "columns.json": {
    "class": ["run", "swim", "jump"],
    "results": {"v_a": [0.2, 0.0, 0.7], "v_b": [0.9, 0.0, 0.0]},
  },
}


def classify(scores, **options):
  options = {"top_classes": 2, "combination": "product", **options}
  table = video_classifier.classify(PROPOSALS, scores, **options)
  rows = zip(
    [table.video_names[code] for code in table.video],
    [table.label_names[code] for code in table.label],
    table.start_sec.tolist(),
    np.round(table.score, 6).tolist(),
    strict=True,
  )
  return sorted(rows)


@pytest.mark.parametrize("name", FORMS)
def test_scores_multiply_and_equal_segments_merge(tmp_path, name):
  path = tmp_path / name
  path.write_text(json.dumps(FORMS[name]))
  scores = video_classifier.read_video_scores(path)
  expected = [
    ("b", "run", 3.0, 0.45),
    ("v_a", "jump", 0.0, 0.56),
    ("v_a", "jump", 5.0, 0.07),
    ("v_a", "run", 0.0, 0.16),
    ("v_a", "run", 5.0, 0.02),
  ]
  assert classify(scores) == expected
  best = classify(scores, top_classes=1, combination="geometric_mean")
  assert best == [
    ("b", "run", 3.0, round(0.45**0.5, 6)),
    ("v_a", "jump", 0.0, round(0.56**0.5, 6)),
    ("v_a", "jump", 5.0, round(0.07**0.5, 6)),
  ]


def test_the_best_class_alone(tmp_path):
  path = tmp_path / "top1.json"
  path.write_text(json.dumps({"v_a": {"class": "jump", "score": 0.5}}))
  scores = video_classifier.read_video_scores(path)
  with pytest.raises(ValueError, match="no scores for 1 videos"):
    classify(scores)
  with pytest.raises(ValueError, match="combination 'sum'"):
    classify(scores, combination="sum")


@pytest.mark.parametrize(
  "document",
  [
    "[]",
    '{"a": {"class": 3, "score": 1}}',
    '{"a": {"class": "x", "score": -1}}',
    '{"results": {"a": [0.1, 0.2]}, "class": ["x"]}',
    '{"a": []}',
  ],
)
def test_malformed_files(tmp_path, document):
  path = tmp_path / "bad.json"
  path.write_text(document)
  with pytest.raises(MalformedFileError):
    video_classifier.read_video_scores(path)
  np.save(tmp_path / "bad.npy", np.ones((3, 20)))
  with pytest.raises(MalformedFileError, match="101"):
    video_classifier.read_video_scores(tmp_path / "bad.npy")


def test_thumos_matrix(shared_data):
  path = shared_data / "thumos14/uNet_test.npy"
  if not path.is_file():
    pytest.skip(f"no real data: {path} is missing")
  scores = video_classifier.read_video_scores(path)
  assert scores.scores.shape == (1574, 20)
  row = scores.row_of("video_test_0000004")
  assert scores.label_names[scores.scores[row].argmax()] == "CricketBowling"


def test_real_proposals_get_their_labels_back(shared_data, tmp_path):
  """The file's labels are the classifier's, so its mAP is found again."""
  root = shared_data / "activitynet_v1.3"
  if not root.is_dir():
    pytest.skip(f"no real data: {root} is missing")
  document = json.loads(
    (root / "anet_val_jittered_predictions.json").read_text()
  )
  for entries in document["results"].values():
    for entry in entries:
      del entry["label"]
  proposals = tmp_path / "proposals.json"
  proposals.write_text(json.dumps(document))
  classifier = Classifier(
    str(root / "video_level_top1_scores_val.json"), 1, "product"
  )
  [result] = score(
    proposals,
    ground_truth_path=root / "activity_net.v1-3.rebuilt.json",
    protocols=["activitynet"],
    classifier=classifier,
  )
  assert result["metrics"]["average_map"] == pytest.approx(0.5951, abs=0.03)
  assert "video_level_top1" in result["card"]["class_source"]
