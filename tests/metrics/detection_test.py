"""Detection metrics: a loop oracle, golden cases, laws."""

import dataclasses
import math

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from clap_jax.metrics import detection, protocols
from clap_jax.metrics.tables import DetectionTable, SegmentTable
from tests.metrics import loop_oracle

ACTIVITYNET = protocols.PROTOCOLS["activitynet"]
HALF = dataclasses.replace(ACTIVITYNET, thresholds=(0.5,))


def truths(*rows):
  video, label, start, end = zip(*rows, strict=True)
  return SegmentTable.from_columns(
    video=video, label=label, start_sec=start, end_sec=end
  )


def predicted(*rows):
  columns = zip(*rows, strict=True) if rows else ((),) * 5
  video, label, start, end, score = columns
  return DetectionTable.from_columns(
    video=video, label=label, start_sec=start, end_sec=end, score=score
  )


def average_map(predictions, ground_truth, protocol=HALF):
  return detection.evaluate(predictions, ground_truth, protocol)["average_map"]


@st.composite
def random_sets(draw):
  """Coarse grids force ties of scores and IoUs, repeats and empty segments."""
  seed = draw(st.integers(0, 2**31))
  rng = np.random.default_rng(seed)
  num_truth = draw(st.integers(1, 40))
  num_pred = draw(st.integers(0, 120))
  grid = draw(st.sampled_from([4, 12, 1000]))

  def columns(count, num_labels):
    ends = np.sort(rng.integers(0, grid, (count, 2)), axis=1) / 8
    return {
      "video": [f"v{i}" for i in rng.integers(0, 4, count)],
      "label": [f"c{i}" for i in rng.integers(0, num_labels, count)],
      "start_sec": ends[:, 0],
      "end_sec": ends[:, 1],
    }

  score = rng.integers(0, draw(st.sampled_from([3, 10**6])), num_pred) / 8
  # Truth has classes 0-3, predictions 1-5 in part: empty and unknown ones.
  truth = SegmentTable.from_columns(**columns(num_truth, 4))
  return DetectionTable.from_columns(**columns(num_pred, 6), score=score), truth


def oracle(predictions, truth, thresholds, order_of):
  result = {}
  for label in dict.fromkeys(truth.label_names[c] for c in truth.label):
    rows = [
      (truth.video_names[v], s, e)
      for v, c, s, e in zip(
        truth.video, truth.label, truth.start_sec, truth.end_sec, strict=True
      )
      if truth.label_names[c] == label
    ]
    mine = [
      i
      for i, c in enumerate(predictions.label)
      if predictions.label_names[c] == label
    ]
    part = predictions.take(np.array(mine, int))
    scored = [
      (part.video_names[v], s, e, x)
      for v, s, e, x in zip(
        part.video, part.start_sec, part.end_sec, part.score, strict=True
      )
    ]
    result[label] = loop_oracle.class_average_precision(
      scored, rows, thresholds=thresholds, order=order_of(part.score)
    )
  return result


@pytest.mark.parametrize("tie_rule", ["input_order", "reversed_numpy_sort"])
@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(random_sets())
def test_average_precision_equals_the_loop(tie_rule, sets):
  predictions, truth = sets
  protocol = dataclasses.replace(
    ACTIVITYNET, thresholds=(0.1, 0.5, 0.75, 1.0), tie_rule=tie_rule
  )
  results = detection.evaluate_classes(predictions, truth, protocol)
  order_of = (
    loop_oracle.stable_order
    if tie_rule == "input_order"
    else loop_oracle.reversed_numpy_sort
  )
  expected = oracle(predictions, truth, protocol.thresholds, order_of)
  assert set(results.labels) == set(expected)
  for label, ours in zip(
    results.labels, results.average_precision, strict=True
  ):
    np.testing.assert_allclose(ours, expected[label], rtol=0, atol=1e-12)


def test_blocks_of_any_size_give_the_same_result(monkeypatch):
  rng = np.random.default_rng(0)
  ends = np.sort(rng.uniform(0, 9, (500, 2)), axis=1)
  video = [f"v{i}" for i in rng.integers(0, 9, 500)]
  label = [f"c{i}" for i in rng.integers(0, 3, 500)]
  table = DetectionTable.from_columns(
    video=video,
    label=label,
    start_sec=ends[:, 0],
    end_sec=ends[:, 1],
    score=rng.random(500),
  )
  truth = table.take(np.arange(0, 500, 5))
  whole = detection.evaluate(table, truth, ACTIVITYNET)
  monkeypatch.setattr("clap_jax.metrics.matching._MAX_PAIRS", 16)
  assert detection.evaluate(table, truth, ACTIVITYNET) == whole


def test_no_predictions_score_zero():
  assert average_map(predicted(), truths(("v", "a", 0, 1))) == 0


def test_no_ground_truth_is_an_error():
  empty = SegmentTable.from_columns(
    video=(), label=(), start_sec=(), end_sec=()
  )
  with pytest.raises(ValueError, match="no ground-truth segment"):
    average_map(predicted(("v", "a", 0, 1, 0.5)), empty)


def test_equality_with_the_threshold_is_a_hit_unless_strict():
  truth = truths(("v", "a", 0, 10))
  half = predicted(("v", "a", 0, 5, 1.0))
  assert average_map(half, truth) == 1
  strict = dataclasses.replace(HALF, thumos_kit=True, interpolated=False)
  assert average_map(half, truth, strict) == 0
  for name in ("multithumos", "thumos14", "activitynet", "ego4d_mq"):
    for threshold in protocols.PROTOCOLS[name].thresholds:
      at = predicted(("v", "a", 0, round(threshold, 2), 1.0))
      one = dataclasses.replace(
        protocols.PROTOCOLS[name], thresholds=(threshold,)
      )
      assert average_map(at, truths(("v", "a", 0, 1)), one) == 1


def test_repeated_ground_truth():
  truth = truths(("v", "a", 0, 1), ("v", "a", 0.0005, 1))
  one = predicted(("v", "a", 0, 1, 1.0))
  assert average_map(one, truth) == 0.5  # official: both count
  cleaned = dataclasses.replace(HALF, drop_degenerate=True)
  assert average_map(one, truth, cleaned) == 1


def test_two_predictions_on_one_ground_truth_per_threshold():
  """The better fitting one is second: it counts where the first fails."""
  truth = truths(("v", "a", 0, 10))
  predictions = predicted(("v", "a", 0, 6, 0.9), ("v", "a", 0, 9, 0.8))
  protocol = dataclasses.replace(HALF, thresholds=(0.5, 0.75))
  metrics = detection.evaluate(predictions, truth, protocol)
  assert metrics == {"map@0.50": 1, "map@0.75": 0.5, "average_map": 0.75}


def test_ties_follow_the_order_of_the_file():
  truth = truths(("v", "a", 0, 1))
  right, wrong = ("v", "a", 0, 1, 0.5), ("v", "a", 5, 6, 0.5)
  assert average_map(predicted(right, wrong), truth) == 1
  assert average_map(predicted(wrong, right), truth) == 0.5
  reverse = dataclasses.replace(HALF, tie_rule="reversed_numpy_sort")
  assert average_map(predicted(right, wrong), truth, reverse) == 0.5


def test_equal_overlaps_take_the_last_ground_truth():
  truth = truths(("v", "a", 0, 4), ("v", "a", 4, 8))
  # The first fits both alike; taking the last leaves the first for the other.
  both = predicted(("v", "a", 2, 6, 0.9), ("v", "a", 0, 4, 0.8))
  low = dataclasses.replace(HALF, thresholds=(0.3,))
  assert average_map(both, truth, low) == 1
  other = predicted(("v", "a", 2, 6, 0.9), ("v", "a", 4, 8, 0.8))
  assert average_map(other, truth, low) == 0.5


def test_unknown_labels_are_ignored_and_unknown_videos_are_wrong():
  truth = truths(("v", "a", 0, 1))
  right = ("v", "a", 0, 1, 0.5)
  assert average_map(predicted(("v", "z", 0, 1, 0.9), right), truth) == 1
  assert average_map(predicted(("w", "a", 0, 1, 0.9), right), truth) == 0.5


def test_empty_segments():
  truth = truths(("v", "a", 3, 3))
  same = predicted(("v", "a", 3, 3, 1.0))
  assert average_map(same, truth) == 1  # 0 / 0 passes every threshold
  floored = dataclasses.replace(HALF, empty_pair=0.0)
  assert average_map(same, truth, floored) == 0
  with pytest.raises(ValueError, match="no ground-truth"):
    average_map(same, truth, dataclasses.replace(HALF, drop_degenerate=True))
  # An empty prediction has no overlap with a real segment.
  assert average_map(same, truths(("v", "a", 2, 4))) == 0
  assert math.isinf(ACTIVITYNET.empty_pair)


def test_top_k_keeps_the_best_of_every_video():
  truth = truths(("v", "a", 0, 1), ("w", "a", 0, 1))
  predictions = predicted(
    ("v", "a", 5, 6, 0.9),
    ("v", "a", 0, 1, 0.9),
    ("w", "a", 0, 1, 0.1),
    ("w", "a", 0, 1, 0.05),
  )
  top = dataclasses.replace(HALF, top_k=1)
  assert average_map(predictions, truth, top) == 0.25
  assert average_map(predictions, truth) == pytest.approx(2 / 3)


def test_recall_at_kx_counts_k_per_ground_truth():
  protocol = dataclasses.replace(
    protocols.PROTOCOLS["ego4d_mq"], thresholds=(0.5,), recall_at=(1, 2)
  )
  truth = truths(("v", "a", 0, 1), ("v", "a", 5, 6), ("w", "b", 0, 1))
  predictions = predicted(
    ("v", "a", 0, 1, 0.9),
    ("v", "a", 0, 1.1, 0.8),
    ("v", "a", 5, 6, 0.7),  # third of 2 x 1, within 2 x 2
  )
  metrics = detection.evaluate(predictions, truth, protocol)
  assert metrics["recall@1x@0.50"] == 0.25  # a: 1 of 2, b: 0 of 1
  assert metrics["recall@2x@0.50"] == 0.5


def slow_average_recall(predictions, truth, thresholds):
  """AR@AN, video by video."""
  videos = list(dict.fromkeys(truth.video.tolist()))
  names = truth.video_names
  lists = []
  for video in videos:
    rows = [
      i
      for i, code in enumerate(predictions.video)
      if predictions.video_names[code] == names[video]
    ]
    rows = sorted(rows, key=lambda i: -predictions.score[i])
    lists.append(predictions.segments[rows])
  ratio = 100 * len(videos) / len(predictions)  # all of the file
  lists = [rows[: min(int(len(rows) * ratio), len(rows))] for rows in lists]
  kept = sum(map(len, lists))
  share = np.arange(1, 101) / 100 * (100 * len(videos) / kept)
  recall = np.zeros(100)
  for j in range(100):
    for video, rows in zip(videos, lists, strict=True):
      best = rows[: min(int(len(rows) * share[j]), len(rows))]
      for segment in truth.segments[truth.video == video]:
        overlaps = loop_oracle.tiou(segment, best) if len(best) else np.zeros(1)
        recall[j] += np.mean([(overlaps >= t).any() for t in thresholds])
  recall /= len(truth)
  axis = share * kept / len(videos)
  return recall, np.trapezoid(recall, axis) / axis[-1]


@pytest.mark.parametrize("per_video", [3, 150])
def test_average_recall_equals_the_loop(per_video):
  rng = np.random.default_rng(per_video)
  count = per_video * 6
  ends = np.sort(rng.uniform(0, 9, (count, 2)), axis=1)
  predictions = DetectionTable.from_columns(
    video=[f"v{i}" for i in rng.integers(0, 6, count)],
    label=["x"] * count,
    start_sec=ends[:, 0],
    end_sec=ends[:, 1],
    score=rng.random(count),
  )
  truth = truths(*((f"v{i % 5}", "a", i / 4, i / 4 + 1.5) for i in range(12)))
  protocol = protocols.PROTOCOLS["activitynet_proposals"]
  metrics = detection.evaluate(predictions, truth, protocol)
  recall, area = slow_average_recall(predictions, truth, protocol.thresholds)
  assert metrics["auc"] == pytest.approx(area, abs=1e-12)
  for k in protocol.recall_at:
    assert metrics[f"ar@{k}"] == pytest.approx(recall[k - 1], abs=1e-12)


def test_proposals_without_predictions():
  protocol = protocols.PROTOCOLS["activitynet_proposals"]
  metrics = detection.evaluate(predicted(), truths(("v", "a", 0, 1)), protocol)
  assert set(metrics.values()) == {0.0}


def test_thumos_kit_ignores_ambiguous_regions():
  protocol = dataclasses.replace(
    protocols.PROTOCOLS["thumos14_official"], thresholds=(0.5,)
  )
  truth = truths(("v", "a", 0, 4), ("v", "Ambiguous", 8, 12))
  on_ambiguous = ("v", "a", 11, 15, 0.9)
  right, wrong = ("v", "a", 0, 4, 0.8), ("v", "a", 20, 22, 0.85)
  assert average_map(predicted(on_ambiguous, right), truth, protocol) == 1
  assert average_map(predicted(wrong, right), truth, protocol) == 0.5
  # The ActivityNet-style protocol drops the region and counts it wrong.
  plain = dataclasses.replace(
    protocols.PROTOCOLS["thumos14"], thresholds=(0.5,)
  )
  assert average_map(predicted(on_ambiguous, right), truth, plain) == 0.5


def test_thumos_kit_does_not_interpolate_and_lets_ground_truth_choose():
  protocol = dataclasses.replace(
    protocols.PROTOCOLS["thumos14_official"], thresholds=(0.5,)
  )
  truth = truths(("v", "a", 0, 4), ("w", "a", 0, 4))
  predictions = predicted(
    ("v", "a", 9, 10, 0.9),
    ("v", "a", 0, 3, 0.8),  # above the threshold, but the next fits better
    ("v", "a", 0, 4, 0.7),
    ("w", "a", 0, 4, 0.6),
  )
  expected = (1 / 3 + 2 / 4) / 2
  assert average_map(predictions, truth, protocol) == pytest.approx(expected)


def test_columns_of_different_lengths_are_refused():
  with pytest.raises(ValueError, match="columns of lengths"):
    SegmentTable.from_columns(
      video=["v"], label=["a"], start_sec=[0, 1], end_sec=[1]
    )


def test_a_protocol_is_registered_once():
  one = protocols.Protocol("one", (0.5,), "validation")
  with pytest.raises(ValueError, match="duplicate protocols: one"):
    protocols._named(one, one)
