"""Defines the evaluation card: the metadata needed to compare two numbers."""

import dataclasses
import hashlib
from collections.abc import Iterable
from typing import Any


@dataclasses.dataclass(frozen=True)
class EvaluationCard:
  """Everything that affects a score, reported with the score.

  The caller sets the fields that the evaluation cannot derive (class source,
  seeds, NMS).
  """

  protocol: str
  task: str  # detection, proposals, grounding, highlights or retrieval
  split: str
  split_hash: str  # hash of the split's ids; equal on the same split
  num_evaluated: int  # videos (queries for grounding) with a prediction
  num_missing: int  # videos or queries without a prediction
  missing: tuple[str, ...] = ()  # the first of them
  num_unknown: int = 0  # predictions of videos or queries outside the split
  num_ignored_labels: int = 0  # predictions whose label is not annotated
  num_predictions: int = 0
  num_ground_truths: int = 0
  num_tied_scores: int = 0  # predictions that share their score with another
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
    """Returns the card as JSON types."""
    return {
      field.name: _plain(getattr(self, field.name))
      for field in dataclasses.fields(self)
    }


def _plain(value: Any) -> Any:
  return list(value) if isinstance(value, tuple) else value


def split_hash(ids: Iterable[str]) -> str:
  """Returns 16 hex digits of the SHA-256 of the sorted ids, one per line."""
  text = "\n".join(sorted(ids)).encode()
  return hashlib.sha256(text).hexdigest()[:16]
