"""Grounding metrics against a loop, golden cases and the absence score."""

import dataclasses

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from clap_jax.metrics import grounding, overlap

CHARADES = grounding.PROTOCOLS["charades_sta"]


def slow_iou(a, b):
  shared = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
  hull = max(a[1], b[1]) - min(a[0], b[0])
  return shared / hull if hull > 0 else 0.0


def slow_evaluate(predictions, truth, protocol):
  hits = {
    (n, m): 0 for n in protocol.recall_at for m in protocol.iou_thresholds
  }
  total = 0.0
  for query, answer in truth.items():
    rows = sorted(predictions.get(query, []), key=lambda row: -row[2])
    if protocol.nms_iou is not None:
      kept = []
      for row in rows:
        if all(slow_iou(row, other) <= protocol.nms_iou for other in kept):
          kept.append(row)
      rows = kept
    overlaps = [slow_iou(row, answer) for row in rows]
    total += overlaps[0] if overlaps else 0.0
    for n, m in hits:
      hits[n, m] += any(
        o > m if protocol.strict else o >= m for o in overlaps[:n]
      )
  result = {f"r{n}@{m:g}": c / len(truth) for (n, m), c in hits.items()}
  return {**result, "miou": total / len(truth)}


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(
  st.integers(0, 2**31), st.booleans(), st.sampled_from([None, 0.0, 0.5])
)
def test_equals_the_loop(seed, strict, nms_iou):
  rng = np.random.default_rng(seed)
  protocol = dataclasses.replace(CHARADES, strict=strict, nms_iou=nms_iou)

  def segments(count):
    return np.sort(rng.integers(0, 9, (count, 2)), axis=1).astype(float)

  truth = {str(q): segments(1)[0] for q in range(8)}
  predictions = {}
  for query in range(9):  # one of them unknown to the ground truth
    count = rng.integers(0, 9)
    score = rng.integers(0, 4, count)
    if query != 3:
      predictions[str(query)] = np.column_stack([segments(count), score])
  ours = grounding.evaluate(predictions, truth, protocol)
  assert ours == pytest.approx(
    slow_evaluate(predictions, truth, protocol), abs=1e-12
  )


def test_strict_and_non_strict_differ_at_equality():
  truth = {"q": (0.0, 10.0)}
  half = {"q": np.array([[0.0, 5.0, 1.0]])}
  assert grounding.evaluate(half, truth, CHARADES)["r1@0.5"] == 1
  strict = grounding.PROTOCOLS["charades_sta_2dtan"]
  assert grounding.evaluate(half, truth, strict)["r1@0.5"] == 0


def test_suppression_limits_what_r5_sees():
  windows = np.array([[0, 4, 0.9], [0, 4.1, 0.8], [6, 9, 0.7]])
  assert len(grounding.rank_windows(windows, nms_iou=None)) == 3
  kept = grounding.rank_windows(windows, nms_iou=0.5)
  np.testing.assert_array_equal(kept, windows[[0, 2]])
  once = grounding.rank_windows(kept, nms_iou=0.5)
  np.testing.assert_array_equal(once, kept)


def test_several_answers_and_empty_input():
  truth = {"q": [(0.0, 1.0), (5.0, 6.0)]}
  metrics = grounding.evaluate({"q": [[5, 6, 1]]}, truth, CHARADES)
  assert metrics["miou"] == 1
  assert set(grounding.evaluate({}, truth, CHARADES).values()) == {0.0}
  with pytest.raises(ValueError, match="empty"):
    grounding.evaluate({}, {}, CHARADES)


def test_absence_score():
  score = np.array([0.9, 0.8, 0.8, 0.1])
  is_absent = np.array([True, True, False, False])
  threshold = grounding.best_absence_threshold(score, is_absent=is_absent)
  assert threshold == 0.8
  metrics = grounding.absence(score, is_absent=is_absent, threshold=threshold)
  # Of four pairs three are ordered right and one is tied.
  assert metrics["absent_auroc"] == pytest.approx(3.5 / 4)
  assert metrics["absent_f1"] == pytest.approx(2 * 2 / (3 + 2))
  only = grounding.absence(score, is_absent=score > 0, threshold=0.5)
  assert np.isnan(only["absent_auroc"])


def test_both_forms_of_iou_agree():
  rng = np.random.default_rng(0)
  a, b = np.sort(rng.uniform(0, 5, (2, 300, 2)), axis=-1)
  np.testing.assert_allclose(
    overlap.iou(a, b, empty_pair=0.0), overlap.hull_iou(a, b), atol=1e-12
  )
  np.testing.assert_array_equal(overlap.hull_iou(a, b), overlap.hull_iou(b, a))
