"""Implements the rules of the THUMOS14 evaluation kit.

Each annotation, in file order, matches the unmatched prediction of its class
and video with the highest IoU if that is *above* the threshold (of equal IoUs:
the better score, then the earlier prediction). A prediction without a match
that overlaps an ambiguous region is left out. AP is not interpolated: the sum
of the precisions at hits over the number of annotations. Predictions of equal
score are ordered by video name, then as in the file.

Source: the kit of the THUMOS Challenge 2014, http://crcv.ucf.edu/THUMOS14/
"""

from collections.abc import Sequence

import numpy as np

from clap_jax.metrics import matching, overlap
from clap_jax.metrics.tables import DetectionTable, SegmentTable


def average_precision(
  predictions: DetectionTable,
  truth: SegmentTable,
  ambiguous: SegmentTable,
  *,
  thresholds: Sequence[float],
) -> np.ndarray:
  """Computes the AP (c, t) of every class and threshold.

  Labels and videos of the predictions must have the codes of `truth`; videos
  that it lacks have further codes.
  """
  name_order = np.argsort(np.argsort(np.array(predictions.video_names)))
  predictions = predictions.take(
    np.lexsort(
      (
        name_order[predictions.video],
        -predictions.score,
        predictions.label,
      )
    )
  )
  hits = _hits(predictions, truth, thresholds=np.asarray(thresholds))
  excused = _touches(predictions, ambiguous)
  num_positives = np.bincount(truth.label, minlength=len(truth.label_names))
  columns = []
  for column in range(len(thresholds)):
    hit = hits[:, column]
    rows = np.flatnonzero(hit | ~excused)
    columns.append(
      matching.average_precision(
        hit[rows][:, None],
        predictions.label[rows],
        num_positives=num_positives,
        interpolated=False,
      )
    )
  return np.concatenate(columns, axis=1)


def _hits(
  predictions: DetectionTable, truth: SegmentTable, *, thresholds: np.ndarray
) -> np.ndarray:
  """Returns (n, t), True for predictions that an annotation matches."""
  groups = matching.join_by_class(predictions, truth)
  pred_segments, truth_segments = predictions.segments, truth.segments
  hits = np.zeros((len(predictions), len(thresholds)), bool)
  column = np.arange(len(thresholds))
  for group in np.flatnonzero(np.diff(groups.pred_start)):
    rows = groups.pred_rows[groups.pred_start[group] :][
      : groups.pred_start[group + 1] - groups.pred_start[group]
    ]
    truth_rows = groups.truth_rows[groups.truth_start[group] :][
      : groups.truth_start[group + 1] - groups.truth_start[group]
    ]
    iou = overlap.hull_iou(
      truth_segments[truth_rows][:, None], pred_segments[rows]
    )
    free = np.ones((len(thresholds), len(rows)), bool)
    for value in iou:
      available = np.where(free, value, -1.0)
      best = available.argmax(axis=1)
      chosen = available[column, best] > thresholds
      free[column[chosen], best[chosen]] = False
    hits[rows] = ~free.T
  return hits


def _touches(
  predictions: DetectionTable, ambiguous: SegmentTable
) -> np.ndarray:
  """Returns (n,), True for predictions that overlap an ambiguous region."""
  groups = matching.join(predictions.video, ambiguous.video)
  touches = np.zeros(len(predictions), bool)
  for block in matching.blocks(
    groups, predictions.segments, ambiguous.segments, empty_pair=0.0
  ):
    touches[block.pred_rows] = (block.iou > 0).any(axis=1)
  return touches
