"""Computes average recall of proposals over their average number."""

import numpy as np

from clap_jax.metrics import matching
from clap_jax.metrics.protocols import Protocol
from clap_jax.metrics.tables import DetectionTable, SegmentTable

_MAX_AVERAGE_NUMBER = 100  # end of the curve's axis


def average_recall(
  predictions: DetectionTable, truth: SegmentTable, protocol: Protocol
) -> dict[str, float]:
  """Computes AR@k for the protocol's k and the normalised area under the curve.

  Every video contributes the same *share* of its proposals, best first, so
  that the average over videos is 1, 2, ..., 100. Recall is the share of
  annotations with a proposal at or above the threshold, averaged over the
  thresholds. Only videos with an annotation count; labels are ignored. Two
  empty segments do not match. As in the public evaluator, the share is that of
  *all* proposals in the file, including those of other videos.
  """
  num_in_file = len(predictions)
  order = np.lexsort((-predictions.score, predictions.video))
  predictions = predictions.take(order).take(
    np.isin(predictions.video[order], truth.video)
  )
  videos, video_of_truth = np.unique(truth.video, return_inverse=True)
  held = np.bincount(
    np.searchsorted(videos, predictions.video), minlength=len(videos)
  )
  if not len(predictions):
    return {**{f"ar@{k}": 0.0 for k in protocol.recall_at}, "auc": 0.0}
  wanted = _MAX_AVERAGE_NUMBER * len(videos)
  # Use at most the share that gives 100 on average.
  used = np.minimum((held * (wanted / num_in_file)).astype(np.int64), held)
  if not used.sum():
    return {**{f"ar@{k}": 0.0 for k in protocol.recall_at}, "auc": 0.0}
  numbers = np.arange(1, _MAX_AVERAGE_NUMBER + 1)
  shares = numbers / _MAX_AVERAGE_NUMBER * (wanted / used.sum())
  allowed = np.minimum((used[:, None] * shares).astype(np.int64), used[:, None])
  rank = matching.first_hit_rank(
    matching.join(predictions.video, truth.video),
    predictions.segments,
    truth.segments,
    thresholds=np.asarray(protocol.thresholds),
    empty_pair=0.0,
  )
  found = rank[:, :, None] < allowed[video_of_truth][:, None, :]
  recall = found.mean(axis=(0, 1))
  area = np.trapezoid(recall, shares * (used.sum() / len(videos)))
  axis_end = shares[-1] * (used.sum() / len(videos))
  metrics = {f"ar@{k}": float(recall[k - 1]) for k in protocol.recall_at}
  return {**metrics, "auc": float(area / axis_end)}
