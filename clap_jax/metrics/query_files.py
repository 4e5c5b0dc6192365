"""Reads predictions and ground truth of language queries.

Predictions, ranked by score or as listed: Moment-DETR's JSON lines ("qid",
"pred_relevant_windows"), TimeChat's JSON ({query: {"timestamp": [[start,
end]]}}), {"results": {query: [{"segment", "score"}]}} with or without the outer
object, lists by video with one list of windows per sentence, and the output of
`clap predict --json` or a grounding run. A record without an id is matched by
its video and sentence. Ground truth: QVHighlights's JSON lines, captions by
video ({"timestamps", "sentences"}, the query ids being "<video>_<index>"), the
Charades-STA text (line numbers from 0) and TimeChat's annotations.
"""

import dataclasses
import pathlib
import unicodedata
from collections.abc import Mapping
from typing import Any

import numpy as np

from clap_jax.annotations import activitynet, given_file
from clap_jax.annotations.problems import ProblemLog
from clap_jax.metrics import documents
from clap_jax.metrics import prediction_entries as entries_lib
from clap_jax.storage import locations

_ID_FIELDS = ("qid", "query_id", "desc_id", "id")
_TEXT_FIELDS = ("query", "sentence", "text", "description", "caption")
_WINDOW_FIELDS = (
  "pred_relevant_windows",
  "pred_windows",
  "predicted_windows",
  "windows",
  "timestamps",
  "timestamp",
  "segments",
  "moments",
  "predictions",
)


@dataclasses.dataclass(frozen=True, eq=False)
class QueryAnswers:
  """Windows (m, 2) that answer each query, and the ids of query texts."""

  windows: dict[str, np.ndarray]
  id_of_text: dict[tuple[str, str], str]  # (video, sentence), normalised


@dataclasses.dataclass(frozen=True, eq=False)
class WindowPredictions:
  """Windows (k, 3) of each query: start_sec, end_sec, score."""

  windows: dict[str, np.ndarray]
  is_sample: bool  # the file covers a sample: other queries are no misses


def read_windows(
  path: locations.Location,
  *,
  id_of_text: Mapping[tuple[str, str], str] | None = None,
) -> WindowPredictions:
  """Reads ranked windows; without scores, their order is the ranking.

  Args:
    id_of_text: see QueryAnswers; for records without an id.

  Raises:
    MalformedFileError: the file has problems.
    OSError: the file cannot be opened.
  """
  log = ProblemLog(path)
  found: dict[str, np.ndarray] = {}
  content, records = documents.read_json_or_lines(path, log)
  is_sample = False
  if records is None:
    records, is_sample = _records_of(content, log)
  for location, record in records:
    _read_record(record, location, found, id_of_text or {}, log)
  log.raise_if_any()
  return WindowPredictions(found, is_sample)


def _records_of(
  content: Any, log: ProblemLog
) -> tuple[list[tuple[str, Any]], bool]:
  """Returns (location, record) of a document's queries, and is_sample."""
  root = content if isinstance(content, dict) else {}
  if isinstance(root.get("videos"), list):
    return _records_of_predict(root["videos"], log), False
  listed, where = content, ""
  if isinstance(root.get("queries"), list):
    listed, where = root["queries"], "queries"
  if isinstance(listed, list):
    return [(f"{where}[{i}]", record) for i, record in enumerate(listed)], False
  queries = root.get("results", content)
  if not isinstance(queries, dict):
    log.fail("", f"got {documents.kind(content)}; expected windows by query")
  records: list[tuple[str, Any]] = []
  for query, answer in queries.items():
    where, video = f"[{query!r}]", activitynet.query_video(query)
    if _is_by_sentence(answer):
      records += [
        (f"{where}[{i}]", {"qid": f"{video}_{i}", "windows": windows})
        for i, windows in enumerate(answer)
      ]
    elif _texts_of(answer):
      records += [
        (f"{where}[{i}]", {"video": query, **record})
        for i, record in enumerate(answer)
      ]
    elif isinstance(answer, dict):
      records.append((where, {**answer, "qid": query}))
    else:
      records.append((where, {"qid": query, "windows": answer}))
  is_sample = any(isinstance(answer, dict) for answer in queries.values())
  return records, is_sample


def _is_by_sentence(answer: Any) -> bool:
  """Returns True for lists of windows, one per sentence of a video."""
  return (
    isinstance(answer, list)
    and any(isinstance(e, list) and e for e in answer)
    and all(
      isinstance(listed, list)
      and all(isinstance(window, list | dict) for window in listed)
      for listed in answer
    )
  )


def _texts_of(answer: Any) -> bool:
  """Returns True for a list of records that hold their sentence."""
  return isinstance(answer, list) and any(
    isinstance(record, dict) and any(name in record for name in _TEXT_FIELDS)
    for record in answer
  )


def _records_of_predict(
  videos: list[Any], log: ProblemLog
) -> list[tuple[str, Any]]:
  """Converts a document of `clap predict` to one record per video and query."""
  grouped: dict[tuple[str, str], tuple[str, list]] = {}
  for number, video in enumerate(videos):
    location = f"videos[{number}]"
    entries = video.get("predictions") if isinstance(video, dict) else None
    if not isinstance(entries, list) or "video" not in video:
      got = documents.kind(video)
      log.add(location, f"got {got}; expected video and predictions")
      continue
    name = pathlib.PurePath(str(video["video"])).stem
    for index, entry in enumerate(entries):
      if not isinstance(entry, dict) or "query" not in entry:
        got = documents.kind(entry)
        where = f"{location}.predictions[{index}]"
        log.add(where, f"got {got}; expected a moment with its query")
        continue
      key = (name, str(entry["query"]))
      grouped.setdefault(key, (location, []))[1].append(entry)
  return [
    (location, {"video": name, "query": text, "windows": entries})
    for (name, text), (location, entries) in grouped.items()
  ]


def _read_record(
  record: Any,
  location: str,
  found: dict[str, np.ndarray],
  id_of_text: Mapping[tuple[str, str], str],
  log: ProblemLog,
) -> None:
  if not isinstance(record, dict):
    got = documents.kind(record)
    log.add(location, f"got {got}; expected a JSON object")
    return
  names = [name for name in _WINDOW_FIELDS if name in record]
  video = entries_lib.video_of(record)
  texts = [record[n] for n in _TEXT_FIELDS if isinstance(record.get(n), str)]
  key = _text_key(video, texts[0]) if video is not None and texts else None
  if not any(name in record for name in _ID_FIELDS) and key is not None:
    query = id_of_text.get(key)
    if query is None:
      log.add(location, f"got {list(key)}; expected an annotated query")
      return
  else:
    query = query_id(record, found, location, log)
  if names:
    listed, where = record[names[0]], f"{location}.{names[0]}"
    listed = _nested(listed)
  else:
    listed, where = None, f"{location}.{_WINDOW_FIELDS[0]}"
  scores = record.get("scores", record.get("pred_scores"))
  if isinstance(scores, list) and isinstance(listed, list):
    listed = _with_scores(listed, scores)
  windows = windows_of(listed, where, log)
  found[query] = (
    np.concatenate([found[query], windows])
    if (query in found and key is not None)
    else windows
  )


def _with_scores(listed: list[Any], scores: list[Any]) -> list[Any]:
  """Adds the scores of a separate list to windows without scores."""
  if len(listed) != len(scores) or not all(
    isinstance(window, list) and len(window) == 2 for window in listed
  ):
    return listed
  return [[*w, score] for w, score in zip(listed, scores, strict=True)]


def _nested(value: Any) -> Any:
  """Wraps a single window [start, end] in a list."""
  single = (
    isinstance(value, list)
    and len(value) in (2, 3)
    and all(type(end) in (int, float) for end in value)
  )
  return [value] if single else value


def _text_key(video: str, text: str) -> tuple[str, str]:
  video, text = (
    unicodedata.normalize("NFC", part)
    for part in (activitynet.query_video(video), text)
  )
  return video, " ".join(text.lower().split())


def query_id(
  record: dict[str, Any], seen: Any, location: str, log: ProblemLog
) -> str:
  """Returns the id of a record; logs a missing or repeated one."""
  name = next((n for n in _ID_FIELDS if record.get(n) is not None), "qid")
  query = record.get(name)
  if type(query) not in (int, str):
    log.add(f"{location}.qid", f"got {documents.kind(query)}; expected an id")
  elif str(query) in seen:
    log.add(f"{location}.{name}", f"got {query} again; expected each once")
  return str(query)


def windows_of(
  listed: Any, location: str, log: ProblemLog, *, scored: bool = False
) -> np.ndarray:
  """Returns windows (k, 3); logs invalid ones and leaves them out."""
  if not isinstance(listed, list):
    log.add(location, f"got {documents.kind(listed)}; expected a list")
    return np.zeros((0, 3))
  rows = []
  for index, entry in enumerate(listed):
    where = f"{location}[{index}]"
    values = entry
    if isinstance(entry, dict):
      plain = entries_lib.plain(entry, label_field="query", needs_label=False)
      segment = plain.get("segment")
      score = [plain["score"]] if "score" in plain else []
      values = [*segment, *score] if isinstance(segment, list) else entry
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


def read_query_answers(path: locations.Location) -> QueryAnswers:
  """Reads the windows that answer each query.

  Raises:
    MalformedFileError: the file has problems.
    OSError: the file cannot be opened.
  """
  windows: dict[str, np.ndarray] = {}
  texts: dict[tuple[str, str], str] = {}
  for query, spans in given_file.read(path).spans_of_queries().items():
    windows[query] = np.array([(s.start_sec, s.end_sec) for _, s in spans])
    for entry, span in spans:
      if span.text and entry.name:
        texts.setdefault(_text_key(entry.name, span.text), query)
  return QueryAnswers(windows, texts)
