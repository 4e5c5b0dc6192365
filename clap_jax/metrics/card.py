"""The evaluation card: the facts needed to compare two numbers."""

import dataclasses
import hashlib
from collections.abc import Iterable
from typing import Any


@dataclasses.dataclass(frozen=True)
class EvaluationCard:
  """Everything that can move a score, reported with the score.

  The caller states fields that the evaluation cannot derive (class source,
  seeds, NMS); "not stated" otherwise, never a guess.
  """

  protocol: str
  task: str  # detection, proposals, grounding, highlights or retrieval
  split: str
  # Of the ids of the split, so that two cards of equal hash used one split.
  split_hash: str
  num_evaluated: int  # videos (queries for grounding) with a prediction
  num_missing: int  # those of the split without one
  missing: tuple[str, ...] = ()  # the first of them
  num_unknown: int = 0  # predictions of videos or queries outside the split
  num_ignored_labels: int = 0  # predicted labels that the ground truth lacks
  num_predictions: int = 0
  num_ground_truths: int = 0
  num_tied_scores: int = 0  # predictions whose score another one shares
  ground_truth_filter: str = "none"
  nms: str = "as in the prediction file"
  top_k: str = "all predictions in the file"
  class_source: str = "not stated"
  seeds: tuple[int, ...] = ()
  tie_rule: str = "file order"
  iou_rule: str = "IoU >= threshold"
  thresholds: tuple[float, ...] = ()
  unit: str = "fraction"  # or percent
  notes: tuple[str, ...] = ()

  def to_dict(self) -> dict[str, Any]:
    """The card as JSON types."""
    return {
      field.name: _plain(getattr(self, field.name))
      for field in dataclasses.fields(self)
    }


def _plain(value: Any) -> Any:
  return list(value) if isinstance(value, tuple) else value


def split_hash(ids: Iterable[str]) -> str:
  """The first 16 hex digits of the SHA-256 of the sorted ids, one a line."""
  text = "\n".join(sorted(ids)).encode()
  return hashlib.sha256(text).hexdigest()[:16]
