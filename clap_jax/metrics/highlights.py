"""Evaluates moment retrieval and highlight detection of QVHighlights.

Returns percentages rounded to two decimals under the names of the benchmark's
standalone evaluator; names of R1 below 0.5 and of the mean IoU are those of
later evaluators. Follows their rules: moment retrieval averages the AP of every
*query* over its first ten windows; R1 and mIoU take the first window *as
listed*; a length bucket keeps the ground-truth windows of that length and the
queries that have one.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from clap_jax.metrics import matching, overlap

CLIP_SEC = 2  # saliency is annotated per clip of two seconds
MAX_WINDOWS = 10
THRESHOLDS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
# Newer evaluators, such as CG-DETR's, also print R1 at lower overlaps.
RECALL_THRESHOLDS = (0.3, 0.35, 0.4, 0.45, *THRESHOLDS)
# Lengths in seconds, (low, high]; the longest clip has 150 s.
LENGTHS = {
  "short": (0, 10),
  "middle": (10, 30),
  "long": (30, 150),
  "full": (-np.inf, np.inf),
}
# Lowest annotator score, from 0 to 4, of a positive clip.
SALIENCY_LEVELS = {"Fair": 2, "Good": 3, "VeryGood": 4}


@dataclasses.dataclass(frozen=True, eq=False)
class QueryPrediction:
  """A prediction for one query; None for a task without predictions."""

  query_id: str
  windows: np.ndarray | None  # (k, 3) start_sec, end_sec, score, as listed
  saliency: np.ndarray | None  # (c,) one score per clip


@dataclasses.dataclass(frozen=True, eq=False)
class QueryTruth:
  """The annotation of one query."""

  query_id: str
  windows: np.ndarray  # (m, 2) seconds, at least one
  saliency: np.ndarray  # (c, 3) scores of the annotators, 0 outside windows


def evaluate(
  predictions: Sequence[QueryPrediction], ground_truth: Sequence[QueryTruth]
) -> dict[str, Any]:
  """Returns the standalone evaluator's document; `brief` holds its summary.

  Raises:
    ValueError: predictions and ground truth have different queries, or one
      query twice.
  """
  truth_of = {truth.query_id: truth for truth in ground_truth}
  ids = [prediction.query_id for prediction in predictions]
  if sorted(ids) != sorted(truth_of) or not ids:
    raise ValueError(
      f"queries differ: got {len(ids)} predicted queries ({len(set(ids))} "
      f"distinct); expected each of the {len(truth_of)} annotated ones once"
    )
  truths = [truth_of[query] for query in ids]
  brief: dict[str, float] = {}
  document: dict[str, Any] = {"brief": brief}
  if predictions[0].windows is not None:
    for name, bounds in LENGTHS.items():
      document[name] = _moment_retrieval(predictions, truths, bounds=bounds)
    brief.update(_brief_moments(document))
  if predictions[0].saliency is not None:
    for name, level in SALIENCY_LEVELS.items():
      scores = _highlights(predictions, truths, level=level)
      document[f"HL-min-{name}"] = scores
      brief[f"HL-min-{name}-mAP"] = scores["HL-mAP"]
      brief[f"HL-min-{name}-Hit1"] = scores["HL-Hit1"]
  return document


def _brief_moments(document: dict[str, Any]) -> dict[str, float]:
  full = document["full"]
  return {
    "MR-full-R1@0.3": full["MR-R1"]["0.3"],
    "MR-full-R1@0.5": full["MR-R1"]["0.5"],
    "MR-full-R1@0.7": full["MR-R1"]["0.7"],
    "MR-full-mIoU": full["MR-mIoU"],
    "MR-full-mAP": full["MR-mAP"]["average"],
    "MR-full-mAP@0.5": full["MR-mAP"]["0.5"],
    "MR-full-mAP@0.75": full["MR-mAP"]["0.75"],
    **{
      f"MR-{name}-mAP": document[name]["MR-mAP"]["average"]
      for name in ("long", "middle", "short")
    },
  }


def _percent(fraction: float) -> float:
  return float(f"{100 * fraction:.2f}")


def _moment_retrieval(
  predictions: Sequence[QueryPrediction],
  truths: Sequence[QueryTruth],
  *,
  bounds: tuple[float, float],
) -> dict[str, Any]:
  """Computes MR-mAP, MR-R1 and MR-mIoU for windows of length (low, high]."""
  kept, answers = [], []
  for prediction, truth in zip(predictions, truths, strict=True):
    length = truth.windows[:, 1] - truth.windows[:, 0]
    inside = (bounds[0] < length) & (length <= bounds[1])
    if inside.any():
      kept.append(prediction.windows)
      answers.append(truth.windows[inside])
  if not kept:
    return {
      "MR-mAP": dict.fromkeys([*map(str, THRESHOLDS), "average"], 0.0),
      "MR-R1": dict.fromkeys(map(str, RECALL_THRESHOLDS), 0.0),
      "MR-mIoU": 0.0,
    }
  average_precision = _query_average_precision(kept, answers).mean(axis=0)
  first = np.stack([windows[0, :2] for windows in kept])
  query = np.repeat(np.arange(len(answers)), [len(a) for a in answers])
  iou = np.zeros(len(answers))
  np.maximum.at(
    iou, query, overlap.hull_iou(first[query], np.concatenate(answers))
  )
  names = [str(threshold) for threshold in THRESHOLDS]
  return {
    "MR-mAP": {
      **dict(zip(names, map(_percent, average_precision), strict=True)),
      "average": _percent(average_precision.mean()),
    },
    "MR-R1": {
      str(threshold): _percent((iou >= threshold).mean())
      for threshold in RECALL_THRESHOLDS
    },
    "MR-mIoU": _percent(iou.mean()),
  }


def _query_average_precision(
  windows: Sequence[np.ndarray], answers: Sequence[np.ndarray]
) -> np.ndarray:
  """Computes the interpolated AP (q, t) of every query, as if a class."""
  listed = [rows[:MAX_WINDOWS] for rows in windows]
  owner = np.repeat(np.arange(len(listed)), [len(rows) for rows in listed])
  rows = np.concatenate(listed)
  order = np.lexsort((-rows[:, 2], owner))
  num_answers = np.array([len(answer) for answer in answers])
  hits, _ = matching.greedy_hits(
    matching.join(owner, np.repeat(np.arange(len(answers)), num_answers)),
    rows[order, :2],
    np.concatenate(answers),
    thresholds=np.array(THRESHOLDS),
    empty_pair=np.inf,  # the reference's 0 / 0 passes every threshold
  )
  return matching.average_precision(
    hits, owner, num_positives=num_answers, interpolated=True
  )


def _highlights(
  predictions: Sequence[QueryPrediction],
  truths: Sequence[QueryTruth],
  *,
  level: int,
) -> dict[str, float]:
  """Computes HL-mAP (mean over annotators) and HL-Hit1 (any annotator)."""
  num_clips = max(len(truth.saliency) for truth in truths)
  valid = np.zeros((len(truths), num_clips), bool)
  score = np.zeros((len(truths), num_clips))
  positive = np.zeros((len(truths), num_clips, 3), bool)
  top = np.zeros(len(truths), np.int64)
  for row, (prediction, truth) in enumerate(
    zip(predictions, truths, strict=True)
  ):
    assert prediction.saliency is not None  # of every query, or of none
    size = len(truth.saliency)
    valid[row, :size] = True
    positive[row, :size] = truth.saliency >= level
    # Clips without a score have score 0, which need not be the lowest.
    scored = prediction.saliency[:size]
    score[row, : len(scored)] = scored
    top[row] = prediction.saliency.argmax()
  inside = top < valid.sum(axis=1)
  hit = positive[np.arange(len(top)), np.minimum(top, num_clips - 1)]
  hit = hit.any(axis=1) & inside
  average_precision = clip_average_precision(
    score, np.moveaxis(positive, 2, 1), valid=valid
  )
  return {
    "HL-mAP": _percent(average_precision.mean()),
    "HL-Hit1": _percent(hit.mean()),
  }


def clip_average_precision(
  score: np.ndarray, positive: np.ndarray, *, valid: np.ndarray
) -> np.ndarray:
  """Computes the AP of clips: mean envelope precision where recall grows.

  Clips of equal score are one step of the curve. AP is 0 without positives.

  Args:
    score: (q, c). positive: (q, a, c) bool. valid: (q, c) bool.

  Returns:
    (q, a).
  """
  key = np.where(valid, -score, np.inf)
  order = np.argsort(key, axis=1, kind="stable")
  key = np.take_along_axis(key, order, axis=1)
  valid = np.take_along_axis(valid, order, axis=1)
  positive = np.take_along_axis(positive, order[:, None], axis=2)
  step_ends = np.ones_like(valid)
  step_ends[:, :-1] = key[:, 1:] != key[:, :-1]
  step_ends = (step_ends & valid)[:, None]
  found = np.cumsum(positive & valid[:, None], axis=2)
  precision = np.where(step_ends, found / np.arange(1, key.shape[1] + 1), -1)
  envelope = np.maximum.accumulate(precision[..., ::-1], axis=2)[..., ::-1]
  at_step = np.maximum.accumulate(np.where(step_ends, found, 0), axis=2)
  before = np.concatenate(
    [np.zeros_like(at_step[..., :1]), at_step[..., :-1]], axis=2
  )
  grows = step_ends & (found > before)
  total = np.where(grows, envelope, 0).sum(axis=2)
  return total / np.maximum(grows.sum(axis=2), 1)
