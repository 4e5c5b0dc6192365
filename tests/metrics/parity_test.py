"""Recorded scores of public evaluators on stored prediction files.

Deterministic references agree to 1e-9; where only a printed value was recorded,
to its last digit.
"""

import json

import numpy as np
import pytest

from clap_jax.metrics import (
  detection,
  ground_truth_files,
  highlight_files,
  highlights,
  prediction_files,
  protocols,
)
from clap_jax.metrics.score import score
from tests.metrics import loop_oracle


def files(root, *parts):
  paths = [root / part for part in parts]
  for path in paths:
    if not path.exists():
      pytest.skip(f"no real data: {path} is missing")
  return paths


def flat(document, prefix=""):
  for key, value in document.items():
    if isinstance(value, dict):
      yield from flat(value, f"{prefix}{key}/")
    else:
      yield f"{prefix}{key}", value


def test_activitynet_official_oracle(shared_data):
  """Includes three empty annotations that must count as matched."""
  predictions, truth = files(
    shared_data / "activitynet_v1.3",
    "sample_detection_prediction.json",
    "activity_net.v1-3.rebuilt.json",
  )
  [result] = score(
    predictions, ground_truth_path=truth, protocols=["activitynet"]
  )
  assert len(result["metrics"]) == 11
  assert set(result["metrics"].values()) == {1.0}
  card = result["card"]
  assert (card["num_evaluated"], card["num_missing"]) == (4926, 0)
  assert card["num_ground_truths"] == 7654


def test_thumos_kit(shared_data):
  predictions, truth = files(
    shared_data,
    "predictions/TURN-FLOW-16_SCNN_thumos14_iou0.5.txt",
    "thumos14/annotation_test",
  )
  [result] = score(
    predictions, ground_truth_path=truth, protocols=["thumos14_official"]
  )
  assert round(result["metrics"]["map@0.50"], 4) == 0.2556


def first_window_iou(predictions, truth):
  """Best IoU of each query's first window, as CG-DETR's evaluator takes it."""
  answers = {
    entry["qid"]: entry["relevant_windows"]
    for entry in map(json.loads, truth.read_text().splitlines())
  }
  best = []
  for entry in map(json.loads, predictions.read_text().splitlines()):
    start, end = entry["pred_relevant_windows"][0][:2]
    best.append(
      max(
        max(0, min(end, last) - max(start, first))
        / (max(end, last) - min(start, first))
        for first, last in answers[entry["qid"]]
      )
    )
  return best


@pytest.mark.parametrize(
  "name", ["moment_detr_sample_val_preds", "qd_detr_onlyclip_val_preds"]
)
def test_qvhighlights(shared_data, name):
  predictions, recorded, truth = files(
    shared_data,
    f"predictions/{name}.jsonl",
    f"predictions/{name}_metrics.json",
    "qvhighlights/highlight_val_release.jsonl",
  )
  document = highlights.evaluate(
    highlight_files.read_highlight_predictions(predictions),
    highlight_files.read_highlight_truth(truth),
  )
  expected = dict(flat(json.loads(recorded.read_text())))
  ours = dict(flat(document))
  assert {key: ours[key] for key in expected} == expected
  iou = first_window_iou(predictions, truth)
  brief = document["brief"]
  assert brief["MR-full-mIoU"] == round(100 * sum(iou) / len(iou), 2)
  for threshold in (0.3, 0.5, 0.7):
    hits = sum(value >= threshold for value in iou)
    assert brief[f"MR-full-R1@{threshold}"] == round(100 * hits / len(iou), 2)
  [result] = score(
    predictions, ground_truth_path=truth, protocols=["qvhighlights"]
  )
  assert result["metrics"] == document["brief"]
  assert result["card"]["unit"] == "percent"


def test_timechat(shared_data):
  predictions, truth, text = files(
    shared_data / "charades_sta",
    "timechat_example_pred.json",
    "timechat_example_gt.json",
    "charades_sta_test.txt",
  )
  for path in (truth, text):
    [result] = score(
      predictions, ground_truth_path=path, protocols=["charades_sta"]
    )
    metrics = result["metrics"]
    assert metrics["r1@0.3"] == pytest.approx(0.09, abs=1e-9)
    assert metrics["r1@0.5"] == pytest.approx(0.034, abs=1e-9)
    assert metrics["r1@0.7"] == pytest.approx(0.014, abs=1e-9)
    assert result["card"]["num_evaluated"] == 500
    assert result["card"]["num_missing"] == 3220


def test_mmaction_example(shared_data):
  """The values that MMAction2's own test of this pair of files expects."""
  predictions, truth = files(
    shared_data / "features/mmaction2_tests/eval_localization",
    "result.json",
    "gt.json",
  )
  [result] = score(
    predictions, ground_truth_path=truth, protocols=["activitynet"]
  )
  assert result["metrics"]["average_map"] == pytest.approx(
    0.6177579365079365, abs=1e-12
  )
  assert "v_" in result["card"]["notes"][0]


@pytest.mark.parametrize(
  ("truth", "protocol", "counts"),
  [
    ("thumos14/thumos14_actionformer.json", "thumos14", (212, 3358)),
    ("thumos14/thumos_gt_gtad.json", "thumos14", (210, 3311)),
    ("thumos14/annotation_test", "thumos14", (213, 3358)),
    ("multithumos/multithumos.json", "multithumos", (213, None)),
    ("charades_tal/charades.json", "charades", (1863, None)),
    (
      "epic_kitchens_100/EPIC_100_validation.csv",
      "epic_kitchens_verb",
      (138, 9668),
    ),
    ("activitynet_v1.3/anet_anno_action.json", "activitynet", (None, None)),
  ],
)
def test_ground_truth_files_score_themselves(
  shared_data, tmp_path, truth, protocol, counts
):
  """Annotations given back as predictions are perfect in every form."""
  num_videos, num_segments = counts
  [path] = files(shared_data, truth)
  rules = protocols.PROTOCOLS[protocol]
  split = ground_truth_files.read_ground_truth(
    path, subset=rules.subset, label_field=rules.label_field
  )
  table = split.table
  rows: dict[str, list] = {name: [] for name in table.video_names}
  for row in range(len(table)):
    label = table.label_names[table.label[row]]
    rows[table.video_names[table.video[row]]].append(
      {
        "label": label,
        "segment": [table.start_sec[row], max(table.segments[row])],
        "score": 1 - row / len(table),
      }
    )
  predictions = tmp_path / "predictions.json"
  predictions.write_text(json.dumps({"results": rows}))
  [result] = score(predictions, ground_truth_path=path, protocols=[protocol])
  card = result["card"]
  assert num_videos in (None, card["num_evaluated"] + card["num_missing"])
  assert num_segments in (None, card["num_ground_truths"])
  assert result["metrics"]["average_map"] > 0.99


def test_real_predictions_equal_the_loop(shared_data):
  """Repeated annotations tie exactly in one order of operations only."""
  predictions_path, truth_path = files(
    shared_data / "activitynet_v1.3",
    "anet_val_jittered_predictions.json",
    "activity_net.v1-3.rebuilt.json",
  )
  protocol = protocols.PROTOCOLS["activitynet"]
  truth = ground_truth_files.read_ground_truth(
    truth_path, subset=protocol.subset
  ).table
  predictions = prediction_files.read_detections(predictions_path)
  results = detection.evaluate_classes(predictions, truth, protocol)
  for code, label in enumerate(results.labels):
    rows = [
      table.take(table.label == table.label_names.index(label))
      for table in (predictions, truth)
    ]
    scored, annotated = (
      [
        (part.video_names[video], *segment)
        for video, segment in zip(
          part.video, part.segments.tolist(), strict=True
        )
      ]
      for part in rows
    )
    expected = loop_oracle.class_average_precision(
      [(*row, None) for row in scored],
      annotated,
      thresholds=protocol.thresholds,
      order=loop_oracle.stable_order(rows[0].score),
    )
    np.testing.assert_allclose(
      results.average_precision[code], expected, rtol=0, atol=1e-12
    )
