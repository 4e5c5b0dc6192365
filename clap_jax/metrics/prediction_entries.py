"""Parses one scored segment under common field names.

The plain names are "segment" ([start, end] in seconds), "score" and "label";
`plain` converts other names to them.
"""

import math
from typing import Any

from clap_jax.annotations.given_file import NO_LABEL
from clap_jax.annotations.problems import ProblemLog
from clap_jax.metrics import documents

# The first present field counts.
VIDEO_FIELDS = (
  "video",
  "video_id",
  "video-id",
  "video_name",
  "video-name",
  "vid",
  "clip_uid",
)
_SEGMENT_FIELDS = ("segment", "timestamp", "interval", "window")
_ENDS_FIELDS = (
  ("start_sec", "end_sec"),
  ("t-start", "t-end"),
  ("t_start", "t_end"),
  ("start_time", "end_time"),
  ("start", "end"),
)
TIME_FIELDS = tuple(name for names in _ENDS_FIELDS for name in names)
_SCORE_FIELDS = ("score", "scores", "confidence", "conf")
_LABEL_FIELDS = ("label", "label_id", "class", "class_name", "category")
_LIST_FIELDS = ("predictions", "annotations", "proposals", "results")
# Columns of a table of entries; "t_start" also means "t-start".
COLUMNS = (*VIDEO_FIELDS, *TIME_FIELDS, *_SCORE_FIELDS, *_LABEL_FIELDS)


def video_of(entry: dict[str, Any]) -> str | None:
  """Returns the video that an entry names, or None."""
  name = _first(entry, VIDEO_FIELDS)
  return str(name) if type(name) in (str, int) else None


def holds_entries(value: Any) -> bool:
  """Returns True for a list, or an object with a field for a list."""
  if not isinstance(value, dict):
    return isinstance(value, list)
  return any(name in value for name in ("segments", *_LIST_FIELDS))


def nested_entries(value: Any) -> list[Any] | None:
  """Returns the predictions of one video as a list, or None.

  Accepts a list, an object that holds one list, or parallel lists "segments",
  "scores" and "labels" of equal length.
  """
  if isinstance(value, list):
    return value
  if not isinstance(value, dict):
    return None
  segments, scores = value.get("segments"), value.get("scores")
  labels = value.get("labels", value.get("label_ids"))
  if isinstance(segments, list) and isinstance(scores, list):
    labels = labels if isinstance(labels, list) else [None] * len(segments)
    if not len(segments) == len(scores) == len(labels):
      return None
    return [
      {"segment": segment, "score": score}
      | ({} if label is None else {"label": label})
      for segment, score, label in zip(segments, scores, labels, strict=True)
    ]
  lists = [value[name] for name in _LIST_FIELDS if name in value]
  return lists[0] if len(lists) == 1 and isinstance(lists[0], list) else None


def plain(entry: Any, *, label_field: str, needs_label: bool) -> Any:
  """Converts an entry to the plain names; adds no missing fields."""
  if not isinstance(entry, dict):
    return entry
  result = {}
  segment = _first(entry, _SEGMENT_FIELDS)
  for start, end in _ENDS_FIELDS:
    if segment is None and (start in entry or end in entry):
      segment = [entry.get(start), entry.get(end)]
  if segment is not None:
    result["segment"] = segment
  score = _first(entry, _SCORE_FIELDS)
  if score is not None:
    result["score"] = score
  label = label_of(entry, label_field)
  if type(label) is float and label.is_integer():
    label = int(label)
  if label is None and not needs_label:
    label = NO_LABEL
  if label is not None:
    result["label"] = label
  return result


def label_of(entry: dict[str, Any], field: str) -> Any:
  """Returns the label of an entry, or None."""
  if field in entry:
    return entry[field]
  if field == "action" and "verb" in entry and "noun" in entry:
    return f"{entry['verb']},{entry['noun']}"
  return _first(entry, _LABEL_FIELDS)


def explain(entry: Any, location: str, log: ProblemLog) -> None:
  """Logs every reason why a plain entry is invalid."""
  if not isinstance(entry, dict):
    log.add(
      location,
      f"got {documents.kind(entry)}; expected an object with label, score and "
      "segment",
    )
    return
  segment = entry.get("segment")
  if (
    not isinstance(segment, list)
    or len(segment) != 2
    or not all(type(value) in (int, float) for value in segment)
  ):
    got = segment if isinstance(segment, list) else documents.kind(segment)
    got = "nothing" if "segment" not in entry else got
    log.add(f"{location}.segment", f"got {got}; expected [start, end] seconds")
  elif not segment[0] <= segment[1] or math.inf in map(abs, segment):
    log.add(
      f"{location}.segment",
      f"got {segment}; expected finite start <= end in seconds",
    )
  score = entry.get("score")
  if not documents.is_number(score):
    got = "nothing" if score is None else documents.kind(score)
    log.add(f"{location}.score", f"got {got}; expected a finite number")
  label = entry.get("label")
  if label is None:
    log.add(f"{location}.label", "got nothing; expected a class")
  elif type(label) not in (str, int):
    log.add(
      f"{location}.label",
      f"got {documents.kind(label)}; expected a class name or number",
    )


def _first(entry: dict[str, Any], names: tuple[str, ...]) -> Any:
  return next((entry[n] for n in names if entry.get(n) is not None), None)
