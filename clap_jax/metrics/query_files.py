"""Reads predictions and ground truth of language queries.

Predictions: Moment-DETR's JSON lines ("qid", "pred_relevant_windows",
"pred_saliency_scores"), TimeChat's JSON ({query: {"timestamp": [[start,
end]]}}) and {"results": {query: [{"segment", "score"}]}}. Ground truth:
QVHighlights's JSON lines, captions by video ({"timestamps", "sentences"}, the
query ids being "<video>_<index>"), the Charades-STA text (line numbers from 0)
and TimeChat's annotations.
"""

import dataclasses
import pathlib
from typing import Any

import numpy as np

from clap_jax.metrics import documents, highlights
from clap_jax.metrics.problems import ProblemLog


@dataclasses.dataclass(frozen=True, eq=False)
class WindowPredictions:
  """Windows (k, 3) of each query: start_sec, end_sec, score."""

  windows: dict[str, np.ndarray]
  # The file lists the queries it was asked, so others are not misses.
  is_sample: bool


def read_windows(path: pathlib.Path) -> WindowPredictions:
  """Reads ranked windows; without scores the order given is the ranking.

  Raises:
    MalformedFileError: listing every problem.
    OSError: the file cannot be opened.
  """
  log = ProblemLog(path)
  windows: dict[str, np.ndarray] = {}
  is_sample = False
  if path.suffix == ".jsonl":
    for location, record in documents.read_json_lines(path, log):
      query = _query_id(record, windows, location, log)
      listed = record.get("pred_relevant_windows")
      windows[query] = _windows(
        listed, f"{location}.pred_relevant_windows", log
      )
  else:
    content = documents.read_json(path, log)
    queries = content.get("results", content) if _is_dict(content) else None
    if not _is_dict(queries):
      log.add("", f"got {documents.kind(content)}; expected windows by query")
      log.raise_if_any()
    for query, answer in queries.items():
      is_sample = is_sample or _is_dict(answer)
      listed = answer.get("timestamp") if _is_dict(answer) else answer
      windows[query] = _windows(listed, f"[{query!r}]", log)
  log.raise_if_any()
  return WindowPredictions(windows, is_sample)


def _is_dict(value: Any) -> bool:
  return isinstance(value, dict)


def _query_id(
  record: dict[str, Any], seen: Any, location: str, log: ProblemLog
) -> str:
  query = record.get("qid")
  if type(query) not in (int, str):
    log.add(f"{location}.qid", f"got {documents.kind(query)}; expected an id")
  elif str(query) in seen:
    log.add(f"{location}.qid", f"got {query} again; expected each query once")
  return str(query)


def _windows(
  listed: Any, location: str, log: ProblemLog, *, scored: bool = False
) -> np.ndarray:
  """(k, 3); problems are noted and their rows left out."""
  if not isinstance(listed, list):
    log.add(location, f"got {documents.kind(listed)}; expected a list")
    return np.zeros((0, 3))
  rows = []
  for index, entry in enumerate(listed):
    where = f"{location}[{index}]"
    values = entry
    if _is_dict(entry) and isinstance(entry.get("segment"), list):
      values = [*entry["segment"], entry.get("score")]
    sizes = (3,) if scored else (2, 3)
    if (
      not isinstance(values, list)
      or len(values) not in sizes
      or not all(documents.is_number(value) for value in values)
    ):
      log.add(
        where,
        f"got {entry if isinstance(entry, list) else documents.kind(entry)}; "
        "expected [start, end, score] of finite numbers",
      )
    elif values[1] < values[0]:
      log.add(
        where,
        f"got a window that ends before it starts: {values[:2]}; expected "
        "start <= end in seconds",
      )
    else:
      rows.append([*values[:2], values[2] if len(values) == 3 else -index])
  return np.array(rows, np.float64).reshape(-1, 3)


def read_query_segments(path: pathlib.Path) -> dict[str, np.ndarray]:
  """Reads the windows (m, 2) that answer each query.

  Raises:
    MalformedFileError: listing every problem.
    OSError: the file cannot be opened.
  """
  log = ProblemLog(path)
  answers: dict[str, Any] = {}
  if path.suffix == ".jsonl":
    for location, record in documents.read_json_lines(path, log):
      query = _query_id(record, answers, location, log)
      answers[query] = record.get("relevant_windows")
  elif path.suffix == ".txt":
    for number, line in enumerate(documents.read_text(path, log).splitlines()):
      if line.strip():
        fields = line.partition("##")[0].split()
        ends = [documents.to_number(field) for field in fields[-2:]]
        answers[str(number)] = [ends]
  else:
    answers = _answers_from_json(documents.read_json(path, log), log)
  result = {}
  for query, listed in answers.items():
    try:
      array = np.array(listed, np.float64).reshape(-1, 2)
    except (TypeError, ValueError):
      array = np.zeros((0, 2))
    if not len(array) or not np.isfinite(array).all():
      log.add(
        f"query {query!r}",
        f"got {documents.kind(listed)}; expected windows [start, end]",
      )
    result[query] = array
  log.raise_if_any()
  return result


def _answers_from_json(content: Any, log: ProblemLog) -> dict[str, Any]:
  answers: dict[str, Any] = {}
  if _is_dict(content) and isinstance(content.get("annotations"), list):
    for index, entry in enumerate(content["annotations"]):
      if _is_dict(entry) and "id" in entry and "timestamp" in entry:
        answers[str(entry["id"])] = [entry["timestamp"]]
      else:
        log.add(
          f"annotations[{index}]",
          f"got {documents.kind(entry)}; expected id and timestamp",
        )
    return answers
  if not _is_dict(content):
    log.add("", f"got {documents.kind(content)}; expected queries by video")
    log.raise_if_any()
  for video, entry in content.items():
    if _is_dict(entry) and isinstance(entry.get("timestamps"), list):
      # TACoS counts frames.
      per_sec = float(entry.get("fps", 1.0))
      name = video.removesuffix(".avi")
      for index, segment in enumerate(entry["timestamps"]):
        scaled = _scaled(segment, per_sec)
        answers[f"{name}_{index}"] = scaled
    else:
      answers[video] = entry
  return answers


def _scaled(segment: Any, per_sec: float) -> Any:
  try:
    return [[float(value) / per_sec for value in segment]]
  except (TypeError, ValueError):
    return None


def read_highlight_predictions(
  path: pathlib.Path,
) -> list[highlights.QueryPrediction]:
  """Reads Moment-DETR's JSON lines with windows, saliency or both.

  Raises:
    MalformedFileError: listing every problem.
    OSError: the file cannot be opened.
  """
  log = ProblemLog(path)
  predictions: dict[str, highlights.QueryPrediction] = {}
  keys: set[str] = set()
  for location, record in documents.read_json_lines(path, log):
    query = _query_id(record, predictions, location, log)
    windows = saliency = None
    present = {"pred_relevant_windows", "pred_saliency_scores"} & set(record)
    keys = keys or present
    if present != keys or not present:
      log.add(
        location,
        f"got {sorted(present) or 'neither'}; expected pred_relevant_windows, "
        "pred_saliency_scores or both, the same in every line",
      )
    if "pred_relevant_windows" in record:
      where = f"{location}.pred_relevant_windows"
      windows = _windows(
        record["pred_relevant_windows"], where, log, scored=True
      )
      if record["pred_relevant_windows"] == []:
        log.add(where, "got no window; expected at least one")
    if "pred_saliency_scores" in record:
      saliency = record["pred_saliency_scores"]
      sound = isinstance(saliency, list) and len(saliency) > 0
      if not sound or not all(map(documents.is_number, saliency)):
        log.add(
          f"{location}.pred_saliency_scores",
          f"got {documents.kind(saliency)}; expected a finite number per clip",
        )
        saliency = [0.0]
      saliency = np.array(saliency, np.float64)
    predictions[query] = highlights.QueryPrediction(query, windows, saliency)
  if not predictions:
    log.add("", "got no prediction; expected one JSON object per line")
  log.raise_if_any()
  return list(predictions.values())


def read_highlight_truth(path: pathlib.Path) -> list[highlights.QueryTruth]:
  """Reads the annotations of QVHighlights.

  Raises:
    MalformedFileError: listing every problem.
    OSError: the file cannot be opened.
  """
  log = ProblemLog(path)
  truths: dict[str, highlights.QueryTruth] = {}
  for location, record in documents.read_json_lines(path, log):
    query = _query_id(record, truths, location, log)
    try:
      windows = np.array(record["relevant_windows"], float).reshape(-1, 2)
      num_clips = int(record["duration"] / highlights.CLIP_SEC)
      saliency = np.zeros((num_clips, 3))
      saliency[record["relevant_clip_ids"]] = record["saliency_scores"]
    except (KeyError, TypeError, ValueError, IndexError) as error:
      log.add(
        location,
        f"got an annotation that cannot be read ({error!r}); expected "
        "duration, relevant_windows, relevant_clip_ids and saliency_scores",
      )
      continue
    truths[query] = highlights.QueryTruth(query, windows, saliency)
  if not truths:
    log.add("", "got no annotation; expected one JSON object per line")
  log.raise_if_any()
  return list(truths.values())
