"""Diagnoses detectors: error types, their cost, and sensitivity.

After Alwassel et al., "Diagnosing Error in Temporal Action Detectors" (ECCV
2018). The best G * limit_factor predictions of every class are diagnosed, G
being its number of ground truths. A prediction that matches a ground truth is
a true positive; the kind of any other depends on the ground truth of *any*
class in its video that it overlaps most:

    same class       IoU >= threshold   double detection
    another class    IoU >= threshold   wrong label
    same class       IoU >= 0.1         localization
    another class    IoU >= 0.1         confusion
                     less               background

A ground truth without a match is missed.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from clap_jax.metrics import detection, matching
from clap_jax.metrics.protocols import Protocol
from clap_jax.metrics.tables import (
  DetectionTable,
  SegmentTable,
  drop_degenerate,
)

ERROR_KINDS = (
  "true positive",
  "double detection",
  "wrong label",
  "localization",
  "confusion",
  "background",
)
_MIN_IOU = 0.1
SIZE_NAMES = ("XS", "S", "M", "L", "XL")
# Upper bounds of the paper's bins for two datasets; the last bin is open.
BINS = {
  "activitynet": {
    "length": (30, 60, 120, 180),  # seconds
    "coverage": (0.2, 0.4, 0.6, 0.8),  # of the video's duration
    "num_instances": (1, 4, 8),  # of the class in the video
  },
  "thumos14": {
    "length": (3, 6, 12, 18),
    "coverage": (0.02, 0.04, 0.06, 0.08),
    "num_instances": (1, 40, 80),
  },
}


def bins_of(
  protocol: Protocol,
  truth: SegmentTable,
  *,
  duration_sec: Mapping[str, float] | None = None,
) -> dict[str, tuple[float, ...]]:
  """Returns the published bins of a dataset, or fifths of its ground truth.

  Bounds of fifths are rounded to two digits; equal bounds are merged.
  """
  for name, bins in BINS.items():
    if protocol.name.startswith(name):
      return bins
  bins = {}
  values = _characteristics(
    drop_degenerate(
      truth, duplicate_tolerance_sec=protocol.duplicate_tolerance_sec
    ),
    duration_sec,
  )
  for name, column in values.items():
    value = column[np.isfinite(column)]
    if not len(value):
      continue
    bounds = [
      float(f"{bound:.2g}")
      for bound in np.quantile(value, (0.2, 0.4, 0.6, 0.8))
    ]
    # A bound at the largest value would leave the last bin empty.
    bins[name] = tuple(b for b in sorted(set(bounds)) if b < value.max())
  return {name: bounds for name, bounds in bins.items() if bounds}


@dataclasses.dataclass(frozen=True)
class Diagnosis:
  """Errors of a detector; fractions are means over the thresholds."""

  average_map: float  # of the diagnosed predictions
  # Error kind -> share of the diagnosed predictions; the shares sum to 1.
  shares: dict[str, float]
  # The same for the best G, the second G, ... predictions of every class.
  profile: tuple[dict[str, float], ...]
  # Error kind -> gain of average mAP without its predictions.
  map_gain: dict[str, float]
  missed: float  # share of ground truths without a match
  # Characteristic -> bin -> {"share" of the ground truths, their average
  # "recall", "average_map" if they were the only ground truths}.
  sensitivity: dict[str, dict[str, dict[str, float]]]


def diagnose(
  predictions: DetectionTable,
  ground_truth: SegmentTable,
  protocol: Protocol,
  *,
  duration_sec: Mapping[str, float] | None = None,
  bins: Mapping[str, Sequence[float]] = BINS["activitynet"],
  limit_factor: int = 10,
) -> Diagnosis:
  """Diagnoses predictions under a protocol's matching rules.

  Args:
    predictions, ground_truth: as in `detection.evaluate`.
    protocol: protocol whose thresholds and filters apply; the matching of the
      THUMOS kit does not.
    duration_sec: video -> length; None leaves coverage out.
    bins: characteristic -> ascending inclusive upper bounds.
    limit_factor: predictions per ground truth that are diagnosed.

  Raises:
    ValueError: the ground truth has no segment.
  """
  predictions, truth, _ = detection.prepare(predictions, ground_truth, protocol)
  predictions = detection.ranked(predictions, truth, protocol)
  round_ = _round_of(predictions, truth)
  keep = round_ < limit_factor
  predictions, round_ = predictions.take(keep), round_[keep]
  hits, taken_by = _matches(predictions, truth, protocol)
  kind = error_kinds(predictions, truth, hits, thresholds=protocol.thresholds)
  average_map = _average_map(hits, predictions, truth)
  gain = {
    name: _average_map(hits, predictions, truth, without=kind == code)
    - average_map
    for code, name in enumerate(ERROR_KINDS)
    if code
  }
  return Diagnosis(
    average_map=average_map,
    shares=_shares(kind),
    profile=tuple(_shares(kind[round_ == r]) for r in range(limit_factor)),
    map_gain=gain,
    missed=float((taken_by < 0).mean()),
    sensitivity=_sensitivity(
      predictions,
      truth,
      hits,
      taken_by,
      characteristics=_characteristics(truth, duration_sec),
      bins=bins,
    ),
  )


def _round_of(predictions: DetectionTable, truth: SegmentTable) -> np.ndarray:
  """Returns rank // G of each prediction in its class."""
  num_truth = np.bincount(truth.label, minlength=len(truth.label_names))
  size = np.bincount(predictions.label, minlength=len(truth.label_names))
  first = np.cumsum(size) - size
  rank = np.arange(len(predictions)) - first[predictions.label]
  # Predictions of classes that the filters emptied are not diagnosed.
  return np.where(
    num_truth[predictions.label] > 0,
    rank // np.maximum(num_truth[predictions.label], 1),
    np.iinfo(np.int64).max,
  )


def _matches(
  predictions: DetectionTable, truth: SegmentTable, protocol: Protocol
) -> tuple[np.ndarray, np.ndarray]:
  return matching.greedy_hits(
    matching.join_by_class(predictions, truth),
    predictions.segments,
    truth.segments,
    thresholds=np.asarray(protocol.thresholds),
    empty_pair=protocol.empty_pair,
  )


def error_kinds(
  predictions: DetectionTable,
  truth: SegmentTable,
  hits: np.ndarray,
  *,
  thresholds: Sequence[float],
) -> np.ndarray:
  """Returns indices (n, t) into ERROR_KINDS of predictions at thresholds.

  Of equal overlaps with several ground truths, the first in file order counts.
  Both tables must share their label codes.
  """
  best_iou = np.zeros(len(predictions))
  best_label = np.full(len(predictions), -1)
  for block in matching.blocks(
    matching.join(predictions.video, truth.video),
    predictions.segments,
    truth.segments,
    empty_pair=0.0,
  ):
    # Slots hold ground truths in reverse order.
    last = block.iou.shape[1] - 1
    slot = last - block.iou[:, ::-1].argmax(axis=1)
    rows = np.arange(len(slot))
    best_iou[block.pred_rows] = block.iou[rows, slot]
    best_label[block.pred_rows] = truth.label[
      block.truth_rows[block.group, slot]
    ]
  same = (best_label == predictions.label)[:, None]
  overlaps = best_iou[:, None] >= np.asarray(thresholds)
  touches = (best_iou >= _MIN_IOU)[:, None]
  return np.select(
    [
      hits,
      overlaps & same,
      overlaps & ~same,
      touches & same,
      touches & ~same,
    ],
    range(5),
    default=5,
  )


def _shares(kind: np.ndarray) -> dict[str, float]:
  count = np.bincount(kind.reshape(-1), minlength=len(ERROR_KINDS))
  total = max(count.sum(), 1)
  return {
    name: float(c / total) for name, c in zip(ERROR_KINDS, count, strict=True)
  }


def _average_map(
  hits: np.ndarray,
  predictions: DetectionTable,
  truth: SegmentTable,
  *,
  without: np.ndarray | None = None,
  num_positives: np.ndarray | None = None,
) -> float:
  """Computes average mAP; `without` (n, t) marks excluded predictions."""
  num_classes = len(truth.label_names)
  if num_positives is None:
    num_positives = np.bincount(truth.label, minlength=num_classes)
  present = num_positives > 0
  columns = []
  for column in range(hits.shape[1]):
    rows = slice(None) if without is None else ~without[:, column]
    columns.append(
      matching.average_precision(
        hits[rows, column : column + 1],
        predictions.label[rows],
        num_positives=np.maximum(num_positives, 1),
        interpolated=True,
      )[present]
    )
  return float(np.mean(columns))


def _characteristics(
  truth: SegmentTable, duration_sec: Mapping[str, float] | None
) -> dict[str, np.ndarray]:
  key = truth.label * len(truth.video_names) + truth.video
  _, group, count = np.unique(key, return_inverse=True, return_counts=True)
  result = {"length": truth.length_sec, "num_instances": count[group]}
  if duration_sec is not None:
    total = [duration_sec.get(name, np.nan) for name in truth.video_names]
    result["coverage"] = truth.length_sec / np.array(total)[truth.video]
  return result


def _sensitivity(
  predictions: DetectionTable,
  truth: SegmentTable,
  hits: np.ndarray,
  taken_by: np.ndarray,
  *,
  characteristics: Mapping[str, np.ndarray],
  bins: Mapping[str, Sequence[float]],
) -> dict[str, dict[str, dict[str, float]]]:
  """Computes share, recall and mAP of the ground truths of every bin.

  The mAP of a bin excludes predictions that match ground truths outside it.
  """
  result: dict[str, dict[str, dict[str, float]]] = {}
  for name, upper_bounds in bins.items():
    if name not in characteristics:
      continue
    value = characteristics[name]
    place = np.searchsorted(np.asarray(upper_bounds), value, side="left")
    place[np.isnan(value)] = -1
    result[name] = {}
    for code in range(len(upper_bounds) + 1):
      inside = place == code
      if not inside.any():
        continue
      excused = np.zeros_like(hits)
      row, column = np.nonzero((taken_by >= 0) & ~inside[:, None])
      excused[taken_by[row, column], column] = True
      num_positives = np.bincount(
        truth.label[inside], minlength=len(truth.label_names)
      )
      result[name][SIZE_NAMES[code]] = {
        "share": float(inside.mean()),
        "recall": float((taken_by[inside] >= 0).mean()),
        "average_map": _average_map(
          hits,
          predictions,
          truth,
          without=excused,
          num_positives=num_positives,
        ),
      }
  return result
