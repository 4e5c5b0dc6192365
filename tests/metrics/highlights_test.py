"""QVHighlights metrics: a loop for highlights, golden moments."""

import numpy as np
import pytest

from clap_jax.metrics import highlights
from clap_jax.metrics.highlights import QueryPrediction, QueryTruth


def slow_clip_average_precision(positive, score):
  """One step per distinct score; the envelope where recall grows."""
  if not positive.any():
    return 0.0
  steps = []
  for value in np.unique(score)[::-1]:
    chosen = score >= value
    steps.append((positive[chosen].sum(), positive[chosen].mean()))
  found = np.array([step[0] for step in steps])
  envelope = [max(step[1] for step in steps[i:]) for i in range(len(steps))]
  grows = found > np.concatenate([[0], found[:-1]])
  return np.mean(np.array(envelope)[grows])


@pytest.mark.parametrize("levels", [2, 5, 10**6])
def test_clip_average_precision_equals_the_loop(levels):
  rng = np.random.default_rng(levels)
  size = rng.integers(1, 12, 40)
  valid = np.arange(12) < size[:, None]
  score = rng.integers(0, levels, (40, 12)).astype(float)
  positive = rng.random((40, 3, 12)) < 0.3
  ours = highlights.clip_average_precision(score, positive, valid=valid)
  for row in range(40):
    for annotator in range(3):
      expected = slow_clip_average_precision(
        positive[row, annotator, : size[row]], score[row, : size[row]]
      )
      assert ours[row, annotator] == pytest.approx(expected, abs=1e-12)


def query(windows, saliency, query_id="q"):
  return QueryPrediction(
    query_id, np.array(windows, float), np.array(saliency, float)
  )


def truth(windows, saliency, query_id="q"):
  return QueryTruth(query_id, np.array(windows, float), np.array(saliency))


def test_golden_query():
  predictions = [
    # R1 takes the first as listed, AP the best score first.
    query([[0, 4, 0.1], [20, 60, 0.9]], [0.0, 5.0]),
  ]
  answers = [truth([[20, 60], [0, 8]], [[0, 0, 0], [2, 3, 4], [4, 4, 4]])]
  document = highlights.evaluate(predictions, answers)
  brief = document["brief"]
  assert brief["MR-full-R1@0.3"] == brief["MR-full-R1@0.5"] == 100.0
  assert brief["MR-full-R1@0.7"] == 0.0
  assert brief["MR-full-mIoU"] == 50.0  # [0, 4] against [0, 8]
  assert document["middle"]["MR-mIoU"] == 0.0
  assert brief["MR-full-mAP@0.5"] == 100.0
  assert brief["MR-full-mAP@0.75"] == 50.0
  assert brief["MR-long-mAP"] == 100.0
  assert brief["MR-short-mAP"] == pytest.approx(5.0)  # rank 2 at one of ten
  assert brief["MR-middle-mAP"] == 0.0  # no window of that length
  assert brief["HL-min-Fair-Hit1"] == 100.0
  # Annotators one and two never give clip 1 a 4; any of three suffices.
  assert brief["HL-min-VeryGood-Hit1"] == 100.0
  # The third clip is not scored and counts as 0, tied with the first.
  assert brief["HL-min-VeryGood-mAP"] == pytest.approx(
    100 * np.mean([1 / 3, 1 / 3, (1 + 2 / 3) / 2]), abs=0.01
  )


def test_only_ten_windows_count():
  miss = [[90, 91, 1.0 - i / 100] for i in range(10)]
  late = query([*miss, [0, 8, 0.01]], [1.0])
  document = highlights.evaluate([late], [truth([[0, 8]], [[1, 1, 1]])])
  assert document["brief"]["MR-full-mAP"] == 0.0


def test_queries_must_be_the_same():
  answers = [truth([[0, 8]], [[1, 1, 1]]), truth([[0, 8]], [[1, 1, 1]], "r")]
  with pytest.raises(ValueError, match="queries differ"):
    highlights.evaluate([query([[0, 8, 1.0]], [1.0])], answers)
