"""Video and frame classification: golden cases and recorded scores."""

import json

import numpy as np
import pytest

from clap_jax.metrics import classification, ground_truth_files


def test_runs_and_segmental_f1():
  frames = np.array([1, 1, 2, 2, 2, 1])
  segments, labels = classification.runs(frames)
  np.testing.assert_array_equal(segments, [[0, 2], [2, 5], [5, 6]])
  np.testing.assert_array_equal(labels, [1, 2, 1])
  exact = classification.segmental_f1([frames], [frames], iou_threshold=1.0)
  assert exact == 1
  # Over-segmentation: of two runs on one only the first counts.
  split = np.array([1, 1, 0, 1, 1, 1])
  whole = np.array([1] * 6)
  score = classification.segmental_f1([split], [whole], iou_threshold=0.1)
  assert score == pytest.approx(2 * 1 / (3 + 1))
  assert classification.frame_accuracy([split], [whole]) == 5 / 6


def test_top_1_accuracy():
  labels = [{"a", "b"}, {"c"}]
  assert classification.top_1_accuracy(["b", "b"], labels) == 0.5
  with pytest.raises(ValueError, match="one for each"):
    classification.top_1_accuracy([], [])


def labels_by_video(path, subset):
  table = ground_truth_files.read_ground_truth(path, subset=subset).table
  labels = {name: set() for name in table.video_names}
  for video, label in zip(table.video, table.label, strict=True):
    labels[table.video_names[video]].add(table.label_names[label])
  return labels


def test_activitynet_video_level_classes(shared_data):
  folder = shared_data / "activitynet_v1.3"
  path = folder / "video_level_top1_scores_val.json"
  if not path.exists():
    pytest.skip(f"no real data: {path} is missing")
  scores = json.loads(path.read_text())
  labels = labels_by_video(
    folder / "activity_net.v1-3.rebuilt.json", "validation"
  )
  accuracy = classification.top_1_accuracy(
    [entry["class"] for entry in scores.values()],
    [labels[name.removeprefix("v_")] for name in scores],
  )
  assert round(accuracy, 4) == 0.8851


def test_thumos_video_level_classes(shared_data):
  folder = shared_data / "thumos14"
  path = folder / "uNet_test.npy"
  if not path.exists():
    pytest.skip(f"no real data: {path} is missing")
  scores = np.load(path, allow_pickle=False)
  labels = labels_by_video(folder / "thumos14_actionformer.json", "test")
  class_name = {
    int(number): name
    for number, name in (
      line.split()
      for line in (folder / "annotation_test/detclasslist.txt")
      .read_text()
      .splitlines()
    )
  }
  best = [scores[int(name[-7:]) - 1].argmax() + 1 for name in labels]
  accuracy = classification.top_1_accuracy(
    [class_name.get(int(number), "another of the 101") for number in best],
    list(labels.values()),
  )
  assert round(accuracy, 3) == 0.892


@pytest.mark.parametrize(
  ("system", "accuracy", "f1"),
  [
    ("mid_video_SVM", 0.549, 0.276),
    ("mid_video_DilatedTCN_B3_L5", 0.593, None),
    ("mid_video_ED-TCN_L2_C15", 0.647, 0.588),
  ],
)
def test_50salads(shared_data, system, accuracy, f1):
  folder = shared_data / "tcn_50salads_gtea/predictions/50Salads/mid" / system
  if not folder.is_dir():
    pytest.skip(f"no real data: {folder} is missing")
  loadmat = pytest.importorskip("scipy.io").loadmat
  predicted, truth = [], []
  for path in sorted(folder.glob("*.mat")):
    content = loadmat(path)
    predicted += [np.ravel(video) for video in np.ravel(content["P"])]
    truth += [np.ravel(video) for video in np.ravel(content["Y"])]
  assert len(truth) == 50
  assert round(classification.frame_accuracy(predicted, truth), 3) == accuracy
  ours = classification.segmental_f1(predicted, truth, iou_threshold=0.1)
  assert f1 in (None, round(ours, 3))
