"""The public evaluators' algorithm, prediction by prediction, as an oracle.

Deliberately slow and plain: per class, per prediction, per threshold. It stands
in for the reference in the tests and in the benchmark.
"""

import numpy as np


def tiou(segment, candidates):
  """IoU of one segment (2,) with (m, 2); 0 / 0 stays NaN."""
  start = np.maximum(segment[0], candidates[:, 0])
  end = np.minimum(segment[1], candidates[:, 1])
  shared = (end - start).clip(0)
  # The order of operations of the public evaluators: it decides near ties.
  union = (candidates[:, 1] - candidates[:, 0]) + (segment[1] - segment[0])
  with np.errstate(invalid="ignore", divide="ignore"):
    return shared / (union - shared)


def interpolated(precision, recall):
  """Area under the envelope, all points."""
  precision = np.concatenate([[0], precision, [0]])
  recall = np.concatenate([[0], recall, [1]])
  for i in range(len(precision) - 1, 0, -1):
    precision[i - 1] = max(precision[i - 1], precision[i])
  steps = np.flatnonzero(recall[1:] != recall[:-1]) + 1
  return ((recall[steps] - recall[steps - 1]) * precision[steps]).sum()


def class_average_precision(predictions, truths, *, thresholds, order):
  """AP of one class per threshold.

  predictions: [(video, start, end, score)]; truths: [(video, start, end)];
  order: the order in which predictions are visited.
  """
  by_video = {}
  for video, start, end in truths:
    by_video.setdefault(video, []).append((start, end))
  by_video = {video: np.array(rows) for video, rows in by_video.items()}
  taken = {
    video: np.zeros((len(thresholds), len(rows)), bool)
    for video, rows in by_video.items()
  }
  hit = np.zeros((len(thresholds), len(predictions)))
  for row, index in enumerate(order):
    video, start, end, _ = predictions[index]
    if video not in by_video:
      continue
    overlaps = tiou((start, end), by_video[video])
    best_first = overlaps.argsort(kind="stable")[::-1]
    for t, threshold in enumerate(thresholds):
      for j in best_first:
        if overlaps[j] < threshold:
          break
        if not taken[video][t, j]:
          taken[video][t, j] = True
          hit[t, row] = 1
          break
  found = np.cumsum(hit, axis=1)
  precision = found / np.arange(1, len(predictions) + 1)
  return np.array(
    [
      interpolated(p, f / len(truths))
      for p, f in zip(precision, found, strict=True)
    ]
  )


def stable_order(scores):
  """Best score first, equal scores in the order given."""
  return np.argsort(-np.asarray(scores), kind="stable")


def reversed_numpy_sort(scores):
  """What the public evaluators do; unstable for equal scores."""
  return np.asarray(scores).argsort()[::-1]
