"""Evaluates temporal action localization: mAP, Recall@kx, average recall.

    table = DetectionTable.from_columns(
      video=["a"], label=["jump"], start_sec=[1.0], end_sec=[2.5], score=[0.9]
    )
    evaluate(table, ground_truth, PROTOCOLS["activitynet"])

As in every public evaluator, predictions with labels that the ground truth
lacks are ignored; predictions in videos that it lacks are false positives.
"""

import dataclasses

import numpy as np

from clap_jax.metrics import matching, proposals, thumos_kit
from clap_jax.metrics.protocols import Protocol
from clap_jax.metrics.tables import (
  DetectionTable,
  SegmentTable,
  drop_degenerate,
  encode_names,
  keep_best_per_video,
  translate_codes,
)


@dataclasses.dataclass(frozen=True, eq=False)
class ClassResults:
  """Results of every class in the ground truth."""

  labels: tuple[str, ...]
  num_positives: np.ndarray  # int64 (c,)
  average_precision: np.ndarray  # float64 (c, t)
  recall: np.ndarray | None  # float64 (c, t, k), Recall@kx, if the protocol's


def evaluate(
  predictions: DetectionTable, ground_truth: SegmentTable, protocol: Protocol
) -> dict[str, float]:
  """Scores predictions under one protocol.

  Returns:
    map@0.50, ... and average_map (the mean over the thresholds), in [0, 1];
    recall@1x@0.50, ... if the protocol has Recall@kx; ar@1, ... and auc instead
    for the task "proposals".

  Raises:
    ValueError: the ground truth has no segment.
  """
  if protocol.task == "proposals":
    predictions, truth, _ = prepare(predictions, ground_truth, protocol)
    return proposals.average_recall(predictions, truth, protocol)
  results = evaluate_classes(predictions, ground_truth, protocol)
  mean = results.average_precision.mean(axis=0)
  metrics = {
    f"map@{threshold:.2f}": float(value)
    for threshold, value in zip(protocol.thresholds, mean, strict=True)
  }
  metrics["average_map"] = float(mean.mean())
  if results.recall is not None:
    for column, threshold in enumerate(protocol.thresholds):
      for index, multiple in enumerate(protocol.recall_at):
        value = results.recall[:, column, index].mean()
        metrics[f"recall@{multiple}x@{threshold:.2f}"] = float(value)
  return metrics


def evaluate_classes(
  predictions: DetectionTable, ground_truth: SegmentTable, protocol: Protocol
) -> ClassResults:
  """Scores every class of the ground truth; AP is 0 without predictions.

  Raises:
    ValueError: the ground truth has no segment.
  """
  predictions, truth, ambiguous = prepare(predictions, ground_truth, protocol)
  labels, label = np.unique(truth.label, return_inverse=True)
  truth = dataclasses.replace(
    truth,
    label=label,
    label_names=tuple(truth.label_names[code] for code in labels),
  )
  predictions = ranked(predictions, truth, protocol)
  num_positives = np.bincount(truth.label, minlength=len(labels))
  if protocol.thumos_kit:
    average_precision = thumos_kit.average_precision(
      predictions, truth, ambiguous, thresholds=protocol.thresholds
    )
  else:
    average_precision = _average_precision(
      predictions, truth, protocol=protocol, num_positives=num_positives
    )
  recall = _recall_at(predictions, truth, protocol=protocol)
  return ClassResults(
    truth.label_names, num_positives, average_precision, recall
  )


def prepare(
  predictions: DetectionTable, ground_truth: SegmentTable, protocol: Protocol
) -> tuple[DetectionTable, SegmentTable, SegmentTable]:
  """Applies the protocol's filters; returns predictions, truth, ambiguous.

  Codes of predicted videos become the ground truth's; other videos get further
  codes.

  Raises:
    ValueError: no ground-truth segment is left.
  """
  names = ground_truth.label_names
  is_ambiguous = np.zeros(len(ground_truth), bool)
  if protocol.ambiguous_label in names:
    is_ambiguous = ground_truth.label == names.index(protocol.ambiguous_label)
  truth = ground_truth.take(~is_ambiguous)
  if protocol.drop_degenerate:
    truth = drop_degenerate(
      truth, duplicate_tolerance_sec=protocol.duplicate_tolerance_sec
    )
  if not len(truth):
    raise ValueError(
      f"no ground-truth segment to score against under {protocol.name!r}: got "
      f"{len(ground_truth)} annotations in {len(ground_truth.video_names)} "
      "videos; check the file and the subset"
    )
  if protocol.top_k is not None:
    predictions = keep_best_per_video(predictions, top_k=protocol.top_k)
  code, names = encode_names(predictions.video_names, known=truth.video_names)
  predictions = dataclasses.replace(
    predictions, video=code[predictions.video], video_names=names
  )
  return predictions, truth, ground_truth.take(is_ambiguous)


def ranked(
  predictions: DetectionTable, truth: SegmentTable, protocol: Protocol
) -> DetectionTable:
  """Sorts predictions of the truth's classes by class, best score first."""
  label = translate_codes(
    predictions.label, names=predictions.label_names, to=truth.label_names
  )
  predictions = dataclasses.replace(
    predictions, label=label, label_names=truth.label_names
  ).take(label >= 0)
  if protocol.tie_rule == "input_order":
    # Two stable sorts; the second one, of small integers, is linear.
    order = np.argsort(-predictions.score, kind="stable")
    small = np.min_scalar_type(len(truth.label_names))
    label = predictions.label[order].astype(small)
    return predictions.take(order[np.argsort(label, kind="stable")])
  order = np.argsort(predictions.label, kind="stable")
  sizes = np.bincount(predictions.label, minlength=len(truth.label_names))
  parts = np.split(order, np.cumsum(sizes)[:-1])
  return predictions.take(
    np.concatenate([p[predictions.score[p].argsort()[::-1]] for p in parts])
  )


def _average_precision(
  predictions: DetectionTable,
  truth: SegmentTable,
  *,
  protocol: Protocol,
  num_positives: np.ndarray,
) -> np.ndarray:
  hits, _ = matching.greedy_hits(
    matching.join_by_class(predictions, truth),
    predictions.segments,
    truth.segments,
    thresholds=np.asarray(protocol.thresholds),
    empty_pair=protocol.empty_pair,
  )
  return matching.average_precision(
    hits,
    predictions.label,
    num_positives=num_positives,
    interpolated=protocol.interpolated,
  )


def _recall_at(
  predictions: DetectionTable, truth: SegmentTable, *, protocol: Protocol
) -> np.ndarray | None:
  """Computes Recall@kx (c, t, k), or None if the protocol has none.

  Counts the k * x best predictions of each class in each video, x being its
  number of ground truths there; one prediction may match several of them.
  """
  if not protocol.recall_at:
    return None
  rank = matching.first_hit_rank(
    matching.join_by_class(predictions, truth),
    predictions.segments,
    truth.segments,
    thresholds=np.asarray(protocol.thresholds),
    empty_pair=protocol.empty_pair,
  )
  key = truth.label * len(truth.video_names) + truth.video
  _, group, count = np.unique(key, return_inverse=True, return_counts=True)
  allowed = count[group][:, None] * np.asarray(protocol.recall_at)
  found = rank[:, :, None] < allowed[:, None, :]
  total = np.zeros((len(truth.label_names), *found.shape[1:]))
  np.add.at(total, truth.label, found)
  return total / np.bincount(truth.label)[:, None, None]
