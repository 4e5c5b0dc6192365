"""Reads predictions and ground truth of language queries.

Predictions, ranked by score or as listed: Moment-DETR's JSON lines ("qid",
"pred_relevant_windows"), TimeChat's JSON ({query: {"timestamp": [[start,
end]]}}), {"results": {query: [{"segment", "score"}]}} with or without the outer
object, lists by video with one list of windows per sentence, and what `clap
predict --json` or a grounding run writes. A record without an id is matched by
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

from clap_jax.metrics import documents
from clap_jax.metrics import prediction_entries as entries_lib
from clap_jax.metrics.problems import ProblemLog
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
  """Windows (m, 2) that answer each query, and how texts name queries."""

  windows: dict[str, np.ndarray]
  id_of_text: dict[tuple[str, str], str]  # (video, sentence), normalised


@dataclasses.dataclass(frozen=True, eq=False)
class WindowPredictions:
  """Windows (k, 3) of each query: start_sec, end_sec, score."""

  windows: dict[str, np.ndarray]
  # The file lists the queries it was asked, so others are not misses.
  is_sample: bool


def read_windows(
  path: locations.Location,
  *,
  id_of_text: Mapping[tuple[str, str], str] | None = None,
) -> WindowPredictions:
  """Reads ranked windows; without scores the order given is the ranking.

  Args:
    path: the file.
    id_of_text: see QueryAnswers; for records that give no id.

  Raises:
    MalformedFileError: listing every problem.
    OSError: the file cannot be opened.
  """
  log = ProblemLog(path)
  found: dict[str, np.ndarray] = {}
  content, records = documents.read_json_or_lines(path, log)
  records = _records_within(content, log) if records is None else records
  is_sample = False
  if records is not None:
    for location, record in records:
      _read_record(record, location, found, id_of_text or {}, log)
  else:
    queries = content.get("results", content) if _is_dict(content) else None
    if not isinstance(queries, dict):
      log.fail("", f"got {documents.kind(content)}; expected windows by query")
    is_sample = any(map(_is_dict, queries.values()))
    for query, answer in queries.items():
      where = f"[{query!r}]"
      if _is_by_sentence(answer):
        for index, listed in enumerate(answer):
          found[f"{_video(query)}_{index}"] = windows_of(
            listed, f"{where}[{index}]", log
          )
      elif _texts_of(answer):
        for index, record in enumerate(answer):
          _read_record(
            {"video": query, **record},
            f"{where}[{index}]",
            found,
            id_of_text or {},
            log,
          )
      else:
        found[query] = windows_of(_listed(answer), where, log)
  log.raise_if_any()
  return WindowPredictions(found, is_sample)


def _is_dict(value: Any) -> bool:
  return isinstance(value, dict)


def _is_by_sentence(answer: Any) -> bool:
  """True for a list of lists of windows, one per sentence of a video."""
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
  """True for a list of records that name their sentence."""
  return isinstance(answer, list) and any(
    _is_dict(record) and any(name in record for name in _TEXT_FIELDS)
    for record in answer
  )


def _records_within(
  content: Any, log: ProblemLog
) -> list[tuple[str, Any]] | None:
  """(place, record) of a document that lists records; None for another."""
  if _is_dict(content) and isinstance(content.get("videos"), list):
    return _records_of_predict(content["videos"], log)
  listed, where = content, ""
  if _is_dict(content) and isinstance(content.get("queries"), list):
    listed, where = content["queries"], "queries"
  if not isinstance(listed, list):
    return None
  return [(f"{where}[{index}]", entry) for index, entry in enumerate(listed)]


def _records_of_predict(
  videos: list[Any], log: ProblemLog
) -> list[tuple[str, Any]]:
  """Converts a document of `clap predict` to one record per video and query."""
  grouped: dict[tuple[str, str], tuple[str, list]] = {}
  for number, video in enumerate(videos):
    location = f"videos[{number}]"
    entries = video.get("predictions") if _is_dict(video) else None
    if not isinstance(entries, list) or "video" not in video:
      got = documents.kind(video)
      log.add(location, f"got {got}; expected video and predictions")
      continue
    name = pathlib.PurePath(str(video["video"])).stem
    for index, entry in enumerate(entries):
      if not _is_dict(entry) or "query" not in entry:
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
  if not _is_dict(record):
    got = documents.kind(record)
    log.add(location, f"got {got}; expected a JSON object")
    return
  names = [name for name in _WINDOW_FIELDS if name in record]
  key = _text_key(record)
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
  """Scores from a list beside the windows, where these have none."""
  if len(listed) != len(scores) or not all(
    isinstance(window, list) and len(window) == 2 for window in listed
  ):
    return listed
  return [[*w, score] for w, score in zip(listed, scores, strict=True)]


def _listed(answer: Any) -> Any:
  """The windows of an answer, which may be wrapped in an object."""
  if _is_dict(answer):
    names = [name for name in _WINDOW_FIELDS if name in answer]
    listed = _nested(answer[names[0]]) if names else None
    scores = answer.get("scores", answer.get("pred_scores"))
    if isinstance(scores, list) and isinstance(listed, list):
      listed = _with_scores(listed, scores)
    return listed
  return _nested(answer)


def _nested(value: Any) -> Any:
  """One window [start, end] as a list of windows."""
  single = (
    isinstance(value, list)
    and len(value) in (2, 3)
    and all(type(end) in (int, float) for end in value)
  )
  return [value] if single else value


def _video(name: Any) -> str:
  return str(name).removesuffix(".avi").removesuffix(".mp4")


def _text_key(record: dict[str, Any]) -> tuple[str, str] | None:
  video = entries_lib.video_of(record)
  texts = [record[n] for n in _TEXT_FIELDS if isinstance(record.get(n), str)]
  if video is None or not texts:
    return None
  video, text = (
    unicodedata.normalize("NFC", part) for part in (_video(video), texts[0])
  )
  return video, " ".join(text.lower().split())


def _add_text(texts, record: dict[str, Any], query: str) -> None:
  """Notes that a text names a query; records without a text name none."""
  key = _text_key(record)
  if key is not None:
    texts.setdefault(key, query)


def query_id(
  record: dict[str, Any], seen: Any, location: str, log: ProblemLog
) -> str:
  """The id of a record; a missing or repeated one is noted."""
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
  """(k, 3); problems are noted and their rows left out."""
  if not isinstance(listed, list):
    log.add(location, f"got {documents.kind(listed)}; expected a list")
    return np.zeros((0, 3))
  rows = []
  for index, entry in enumerate(listed):
    where = f"{location}[{index}]"
    values = entry
    if _is_dict(entry):
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
    MalformedFileError: listing every problem.
    OSError: the file cannot be opened.
  """
  log = ProblemLog(path)
  answers: dict[str, Any] = {}
  texts: dict[tuple[str, str], str] = {}
  if path.suffix == ".txt":
    for number, line in enumerate(documents.read_text(path, log).split("\n")):
      if line.strip():
        fields, _, text = line.partition("##")
        fields = fields.split()
        if len(fields) != 3:
          log.add(
            f"line {number + 1}",
            f"got {line[:60]!r}; expected VIDEO START END##SENTENCE",
          )
          continue
        answers[str(number)] = [[documents.to_number(f) for f in fields[-2:]]]
        record = {"video": (fields or [""])[0], "query": text}
        _add_text(texts, record, str(number))
  else:
    content, records = documents.read_json_or_lines(path, log)
    if isinstance(content, list):
      records = [(f"[{index}]", entry) for index, entry in enumerate(content)]
    if records is not None:
      _read_truth_records(records, answers, texts, log)
    else:
      _read_truth_document(content, answers, texts, log)
  result = {}
  for query, listed in answers.items():
    try:
      array = np.array(listed, np.float64).reshape(-1, 2)
    except (TypeError, ValueError, OverflowError):
      array = np.zeros((0, 2))
    if not len(array) or not np.isfinite(array).all():
      log.add(
        f"query {query!r}",
        f"got {documents.kind(listed)}; expected windows [start, end]",
      )
    result[query] = array
  log.raise_if_any()
  return QueryAnswers(result, texts)


def _read_truth_records(records, answers, texts, log: ProblemLog) -> None:
  for location, record in records:
    if not _is_dict(record):
      got = documents.kind(record)
      log.add(location, f"got {got}; expected a JSON object")
      continue
    query = query_id(record, answers, location, log)
    names = ("relevant_windows", "timestamp", "timestamps")
    answers[query] = next((record[n] for n in names if n in record), None)
    _add_text(texts, record, query)


def _read_truth_document(content, answers, texts, log: ProblemLog) -> None:
  if _is_dict(content) and isinstance(content.get("annotations"), list):
    for index, entry in enumerate(content["annotations"]):
      if not _is_dict(entry) or not {"id", "timestamp"} <= set(entry):
        got = documents.kind(entry)
        where = f"annotations[{index}]"
        log.add(where, f"got {got}; expected id and timestamp")
        continue
      answers[str(entry["id"])] = [entry["timestamp"]]
      record = {"video": entry.get("image_id"), **entry}
      _add_text(texts, record, str(entry["id"]))
    return
  if not _is_dict(content):
    log.add("", f"got {documents.kind(content)}; expected queries by video")
    log.raise_if_any()
  for video, entry in content.items():
    if not _is_dict(entry) or not isinstance(entry.get("timestamps"), list):
      answers[video] = entry
      continue
    # TACoS counts frames.
    per_sec = documents.to_number(entry.get("fps", 1.0))
    if not per_sec or per_sec < 0:
      got = documents.kind(entry["fps"])
      log.add(f"[{video!r}].fps", f"got {got}; expected a number above 0")
      continue
    sentences = entry.get("sentences")
    sentences = sentences if isinstance(sentences, list) else []
    for index, segment in enumerate(entry["timestamps"]):
      query = f"{_video(video)}_{index}"
      answers[query] = _scaled(segment, per_sec)
      if index < len(sentences):
        record = {"video": video, "query": sentences[index]}
        _add_text(texts, record, query)


def _scaled(segment: Any, per_sec: float) -> Any:
  try:
    return [[float(value) / per_sec for value in segment]]
  except (TypeError, ValueError, OverflowError):
    return None
