"""Evaluates language grounding: R@n at IoU m, mean IoU, "no such moment".

Predictions of a query are (k, 3) rows of start, end, score, ranked by score;
ties keep their order. A query without predictions is a miss.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from clap_jax.metrics import overlap


@dataclasses.dataclass(frozen=True)
class GroundingProtocol:
  """A protocol that scores ranked windows by R@n, IoU=m.

  Public evaluators differ in `strict` (IoU > m instead of >=) and in hard
  non-maximum suppression before the top n.
  """

  name: str
  iou_thresholds: tuple[float, ...]
  recall_at: tuple[int, ...] = (1, 5)
  strict: bool = False
  nms_iou: float | None = None  # IoU above which NMS drops windows; None: off


def _with_2d_tan(
  protocol: GroundingProtocol, *, nms_iou: float
) -> tuple[GroundingProtocol, GroundingProtocol]:
  """Returns a protocol and its variant with the rules of 2D-TAN."""
  variant = dataclasses.replace(
    protocol, name=f"{protocol.name}_2dtan", strict=True, nms_iou=nms_iou
  )
  return protocol, variant


PROTOCOLS: dict[str, GroundingProtocol] = {
  protocol.name: protocol
  for protocol in (
    *_with_2d_tan(
      GroundingProtocol("charades_sta", (0.3, 0.5, 0.7)), nms_iou=0.5
    ),
    *_with_2d_tan(
      GroundingProtocol("activitynet_captions", (0.3, 0.5, 0.7)), nms_iou=0.5
    ),
    *_with_2d_tan(
      GroundingProtocol("tacos", (0.1, 0.3, 0.5, 0.7)), nms_iou=0.4
    ),
    GroundingProtocol("didemo", (0.5, 0.7, 1.0)),
    GroundingProtocol("ego4d_nlq", (0.3, 0.5)),
    GroundingProtocol("youcook2", (0.3, 0.5, 0.7)),
    GroundingProtocol("motion_sprites", (0.3, 0.5, 0.7)),
  )
}


def evaluate(
  predictions: Mapping[str, np.ndarray],
  ground_truth: Mapping[str, np.ndarray | Sequence[Sequence[float]]],
  protocol: GroundingProtocol,
) -> dict[str, float]:
  """Scores every query of `ground_truth`.

  Args:
    predictions: query id -> (k, 3) start, end, score; queries outside the
      ground truth are ignored.
    ground_truth: query id -> (start, end), or (m, 2) if several windows answer
      the query (the one of highest IoU counts).
    protocol: thresholds and rules.

  Returns:
    r1@0.5, r5@0.7, ... and miou (of the first window), in [0, 1].

  Raises:
    ValueError: the ground truth is empty.
  """
  if not ground_truth:
    raise ValueError(
      f"no query to score under {protocol.name!r}: the ground truth is empty"
    )
  table = overlap_table(predictions, ground_truth, protocol)
  metrics = {}
  for n in protocol.recall_at:
    best = table[:, :n].max(axis=1)
    for threshold in protocol.iou_thresholds:
      hit = best > threshold if protocol.strict else best >= threshold
      metrics[f"r{n}@{threshold:g}"] = float(hit.mean())
  metrics["miou"] = float(table[:, 0].mean())
  return metrics


def overlap_table(
  predictions: Mapping[str, np.ndarray],
  ground_truth: Mapping[str, np.ndarray | Sequence[Sequence[float]]],
  protocol: GroundingProtocol,
) -> np.ndarray:
  """Computes IoUs (q, n) of the n best windows per query; 0 if fewer.

  n is the largest of the protocol's recall_at.
  """
  width = max(protocol.recall_at)
  # The default window, empty at -1, overlaps nothing.
  windows = np.full((len(ground_truth), width, 2), -1.0)
  truths = [np.reshape(value, (-1, 2)) for value in ground_truth.values()]
  for row, query in enumerate(ground_truth):
    ranked = rank_windows(predictions.get(query, ()), nms_iou=protocol.nms_iou)
    windows[row, : len(ranked[:width])] = ranked[:width, :2]
  table = np.zeros((len(truths), width))
  for slot in range(max(len(truth) for truth in truths)):
    truth = np.array([truth[min(slot, len(truth) - 1)] for truth in truths])
    table = np.maximum(table, overlap.hull_iou(windows, truth[:, None]))
  return table


def rank_windows(
  windows: np.ndarray | Sequence, *, nms_iou: float | None
) -> np.ndarray:
  """Sorts windows (k, 3) by descending score; applies hard NMS.

  Drops a window if its IoU with a better kept one is above `nms_iou`.
  """
  windows = np.asarray(windows, np.float64).reshape(-1, 3)
  windows = windows[np.argsort(-windows[:, 2], kind="stable")]
  if nms_iou is None or len(windows) < 2:
    return windows
  iou = overlap.hull_iou(windows[:, None, :2], windows[None, :, :2])
  kept: list[int] = []
  for row in range(len(windows)):
    if not (iou[row, kept] > nms_iou).any():
      kept.append(row)
  return windows[kept]


def absence(
  absence_score: np.ndarray, *, is_absent: np.ndarray, threshold: float
) -> dict[str, float]:
  """Evaluates a score that detects queries without a moment.

  Args:
    absence_score: (q,) higher means "no such moment".
    is_absent: (q,) True for queries of other videos.
    threshold: lowest score of a query predicted absent; choose it on the
      selection split with `best_absence_threshold`.

  Returns:
    absent_auroc (ties count half; NaN if one kind is missing), absent_f1,
    absent_precision and absent_recall at the threshold.
  """
  score = np.asarray(absence_score, np.float64)
  is_absent = np.asarray(is_absent, bool)
  predicted = score >= threshold
  correct = float((predicted & is_absent).sum())
  precision = correct / predicted.sum() if predicted.any() else 0.0
  recall = correct / is_absent.sum() if is_absent.any() else 0.0
  both = precision + recall
  return {
    "absent_auroc": _auroc(score, is_absent),
    "absent_f1": 2 * precision * recall / both if both else 0.0,
    "absent_precision": float(precision),
    "absent_recall": float(recall),
  }


def best_absence_threshold(
  absence_score: np.ndarray, *, is_absent: np.ndarray
) -> float:
  """Returns the threshold of the best F1; the highest in case of ties."""
  score = np.asarray(absence_score, np.float64)
  is_absent = np.asarray(is_absent, bool)
  order = np.argsort(-score, kind="stable")
  found = np.cumsum(is_absent[order])
  f1 = 2 * found / (np.arange(1, len(score) + 1) + max(is_absent.sum(), 1))
  last_of_tie = np.append(np.diff(score[order]) != 0, True)
  return float(score[order][np.where(last_of_tie, f1, -1).argmax()])


def _auroc(score: np.ndarray, positive: np.ndarray) -> float:
  num_positive = int(positive.sum())
  num_negative = len(positive) - num_positive
  if not num_positive or not num_negative:
    return float("nan")
  _, place, count = np.unique(score, return_inverse=True, return_counts=True)
  average_rank = np.cumsum(count) - (count - 1) / 2  # from 1, ties averaged
  rank_sum = average_rank[place][positive].sum()
  above = rank_sum - num_positive * (num_positive + 1) / 2
  return float(above / (num_positive * num_negative))
