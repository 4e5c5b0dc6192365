"""Matches predictions to ground truth and computes AP from the matches.

Groups (a class in a video) are independent, so this module iterates over
*ranks* instead of predictions: round r matches the r-th prediction of all
groups at once, for all thresholds at once.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

from clap_jax.metrics import overlap
from clap_jax.metrics.tables import DetectionTable, SegmentTable

# Maximum number of (prediction, ground truth) pairs in memory.
_MAX_PAIRS = 1 << 21
_PADDING = -1.0  # below every IoU and every threshold
NEVER = np.iinfo(np.int64).max


@dataclasses.dataclass(frozen=True, eq=False)
class Groups:
  """Rows of two tables joined by an integer key.

  pred_rows and truth_rows are ordered by group; the *_start arrays hold the
  first position of every group and the total at the end. Every group has ground
  truth; it may have no prediction.
  """

  pred_rows: np.ndarray
  pred_start: np.ndarray
  truth_rows: np.ndarray
  truth_start: np.ndarray


def join(pred_key: np.ndarray, truth_key: np.ndarray) -> Groups:
  """Groups rows of equal key; keeps the order of rows in a group."""
  keys, truth_group = np.unique(truth_key, return_inverse=True)
  truth_rows = np.argsort(truth_group, kind="stable")
  truth_count = np.bincount(truth_group, minlength=len(keys))
  if len(keys):
    position = np.minimum(np.searchsorted(keys, pred_key), len(keys) - 1)
    pred_rows = np.flatnonzero(keys[position] == pred_key)
    pred_group = position[pred_rows]
  else:
    pred_rows = pred_group = np.zeros(0, np.int64)
  pred_count = np.bincount(pred_group, minlength=len(keys))
  return Groups(
    pred_rows=pred_rows[np.argsort(pred_group, kind="stable")],
    pred_start=np.concatenate([[0], np.cumsum(pred_count)]),
    truth_rows=truth_rows,
    truth_start=np.concatenate([[0], np.cumsum(truth_count)]),
  )


def join_by_class(predictions: DetectionTable, truth: SegmentTable) -> Groups:
  """Groups rows of equal class and video; both tables must share codes."""
  num_videos = len(predictions.video_names)
  return join(
    predictions.label * num_videos + predictions.video,
    truth.label * num_videos + truth.video,
  )


@dataclasses.dataclass(frozen=True, eq=False)
class Block:
  """Several groups with their IoUs, padded to the largest group.

  Slot 0 holds a group's *last* ground truth, so that argmax over the slots
  takes the last of equal IoUs in file order.
  """

  pred_rows: np.ndarray  # (n,) rows of the prediction table, group by group
  group: np.ndarray  # (n,) index of each row's group in the block
  truth_rows: np.ndarray  # (g, k) rows of the ground-truth table, -1 padding
  iou: np.ndarray  # (n, k), -1 in padding


def blocks(
  groups: Groups,
  pred_segments: np.ndarray,
  truth_segments: np.ndarray,
  *,
  empty_pair: float,
) -> Iterator[Block]:
  """Yields all groups with predictions, in blocks of bounded size."""
  num_pred = np.diff(groups.pred_start)
  num_truth = np.diff(groups.truth_start)
  # Blocks of groups of similar size need less padding.
  bucket = np.ceil(np.log2(np.maximum(num_truth, 1))).astype(np.int64)
  order = np.lexsort((num_truth, bucket))
  order = order[num_pred[order] > 0]
  pairs = np.cumsum(num_pred[order] * (1 << bucket[order]))
  part = bucket[order] * (pairs[-1] // _MAX_PAIRS + 1 if len(pairs) else 1)
  part = part + pairs // _MAX_PAIRS
  cuts = np.flatnonzero(np.diff(part, prepend=-1))
  for chosen in np.split(order, cuts[1:]) if len(order) else []:
    pred_positions, group = _ranges(groups.pred_start[chosen], num_pred[chosen])
    width = int(num_truth[chosen].max())
    slot = num_truth[chosen][:, None] - 1 - np.arange(width)
    positions = groups.truth_start[chosen][:, None] + np.maximum(slot, 0)
    truth_rows = np.where(slot >= 0, groups.truth_rows[positions], -1)
    pred_rows = groups.pred_rows[pred_positions]
    iou = overlap.iou(
      pred_segments[pred_rows][:, None],
      truth_segments[truth_rows][group],
      empty_pair=empty_pair,
    )
    iou[truth_rows[group] < 0] = _PADDING
    yield Block(pred_rows, group, truth_rows, iou)


def _ranges(
  starts: np.ndarray, sizes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Concatenates ranges; returns positions and the range index of each."""
  owner = np.repeat(np.arange(len(sizes)), sizes)
  first = np.cumsum(sizes) - sizes
  return starts[owner] + np.arange(len(owner)) - first[owner], owner


def greedy_hits(
  groups: Groups,
  pred_segments: np.ndarray,
  truth_segments: np.ndarray,
  *,
  thresholds: np.ndarray,
  empty_pair: float,
) -> tuple[np.ndarray, np.ndarray]:
  """Matches predictions, best first, to unmatched ground truths.

  At each threshold, a prediction matches the unmatched ground truth of its
  group with the highest IoU if that is at least the threshold. Of equal IoUs,
  the last ground truth in file order counts.

  Returns:
    (n, t) bool, True for predictions with a match; (m, t) int64, the prediction
    row that matches each ground truth, or -1. Rows are those of the tables.
  """
  num_thresholds = len(thresholds)
  hits = np.zeros((len(pred_segments), num_thresholds), bool)
  taken_by = np.full((len(truth_segments), num_thresholds), -1, np.int64)
  for block in blocks(
    groups, pred_segments, truth_segments, empty_pair=empty_pair
  ):
    # Predictions below every threshold have no match.
    able = np.flatnonzero(block.iou.max(axis=1) >= thresholds.min())
    _settle(block, able, thresholds=thresholds, hits=hits, taken_by=taken_by)
  return hits, taken_by


def _settle(
  block: Block,
  able: np.ndarray,
  *,
  thresholds: np.ndarray,
  hits: np.ndarray,
  taken_by: np.ndarray,
) -> None:
  """Matches one block rank by rank; writes into hits and taken_by."""
  group = block.group[able]
  size = np.bincount(group, minlength=len(block.truth_rows))
  rank = np.arange(len(able)) - np.repeat(np.cumsum(size) - size, size)
  by_rank = np.argsort(rank, kind="stable")
  cuts = np.cumsum(np.bincount(rank))[:-1] if len(rank) else []
  num_slots = block.truth_rows.shape[1]
  free = np.ones((len(block.truth_rows), len(thresholds), num_slots), bool)
  for members in np.split(by_rank, cuts) if len(able) else []:
    rows, owners = able[members], group[members]
    value = np.where(free[owners], block.iou[rows][:, None], _PADDING)
    best = value.argmax(axis=2)
    best_iou = np.take_along_axis(value, best[..., None], axis=2)[..., 0]
    member, threshold = np.nonzero(best_iou >= thresholds)
    slot = best[member, threshold]
    free[owners[member], threshold, slot] = False
    pred_row = block.pred_rows[rows[member]]
    hits[pred_row, threshold] = True
    taken_by[block.truth_rows[owners[member], slot], threshold] = pred_row


def first_hit_rank(
  groups: Groups,
  pred_segments: np.ndarray,
  truth_segments: np.ndarray,
  *,
  thresholds: np.ndarray,
  empty_pair: float,
) -> np.ndarray:
  """Returns ranks (m, t) of the first prediction that hits each ground truth.

  Rank 0 is the group's first prediction; `NEVER` if no prediction reaches the
  threshold. One prediction may hit several ground truths.
  """
  ranks = np.full((len(truth_segments), len(thresholds)), NEVER)
  for block in blocks(
    groups, pred_segments, truth_segments, empty_pair=empty_pair
  ):
    size = np.bincount(block.group, minlength=len(block.truth_rows))
    first = np.cumsum(size) - size
    rank = np.arange(len(block.group)) - first[block.group]
    for column, threshold in enumerate(thresholds):
      masked = np.where(block.iou >= threshold, rank[:, None], NEVER)
      lowest = np.minimum.reduceat(masked, first, axis=0)
      valid = block.truth_rows >= 0
      ranks[block.truth_rows[valid], column] = lowest[valid]
  return ranks


def average_precision(
  hits: np.ndarray,
  owner: np.ndarray,
  *,
  num_positives: np.ndarray,
  interpolated: bool,
) -> np.ndarray:
  """Computes the AP of every class and threshold.

  Args:
    hits: (n, t) bool; rows of one class are adjacent, best score first.
    owner: (n,) class of each row, ascending.
    num_positives: (c,) ground truths per class, at least 1.
    interpolated: True: area under the precision envelope (all points, VOC 2010
      and later); False: mean over ground truths of the precision at their hit.

  Returns:
    (c, t) float64; 0 for a class without predictions.
  """
  num_classes, num_thresholds = len(num_positives), hits.shape[1]
  first_row = np.searchsorted(owner, np.arange(num_classes))
  result = np.zeros((num_classes, num_thresholds))
  for column in range(num_thresholds):
    rows = np.flatnonzero(hits[:, column])
    of_class = owner[rows]
    before = np.searchsorted(of_class, np.arange(num_classes))
    found = np.arange(1, len(rows) + 1) - before[of_class]
    precision = found / (rows - first_row[of_class] + 1)
    if interpolated:
      precision = _envelope(precision, of_class)
    gain = found / num_positives[of_class]
    gain = gain - (found - 1) / num_positives[of_class]
    result[:, column] = np.bincount(
      of_class, weights=gain * precision, minlength=num_classes
    )
  return result


def _envelope(precision: np.ndarray, owner: np.ndarray) -> np.ndarray:
  """Returns the best precision at this or a later row of the same class.

  One running maximum serves all classes: precisions become indices in sorted
  order plus an offset that is larger for earlier classes.
  """
  if not len(precision):
    return precision
  values, place = np.unique(precision, return_inverse=True)
  lifted = (owner.max() - owner) * len(values) + place
  running = np.maximum.accumulate(lifted[::-1])[::-1]
  return values[running % len(values)]
