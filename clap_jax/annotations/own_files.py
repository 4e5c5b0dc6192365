"""Reads annotation files: JSON, JSON lines, tables and text.

Besides objects of videos (see activitynet) JSON may have rows: lists or lines
of objects, each a span with a video, start, end, label or caption under any of
the names of `annotation_tables.COLUMNS`, or a query with its windows
(QVHighlights; TimeChat's {"annotations": [...]}). Text has lines VIDEO START
END##SENTENCE (Charades-STA). Unusable entries are rejected with their location
in the file.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from clap_jax.annotations import (
  activitynet,
  annotation_file,
  annotation_tables,
  ego4d,
  source_files,
)
from clap_jax.annotations.annotation_file import AnnotationFile, SpanError
from clap_jax.storage import locations, text_tables, untrusted

TABLE_SUFFIXES = (".csv", ".tsv")
_SHEET_SUFFIXES = (".xlsx", ".xls", ".ods", ".numbers")
_QUERY_KEYS = ("qid", "query_id", "desc_id", "id")
_WINDOW_KEYS = ("relevant_windows", "timestamps", "timestamp")
_DURATION_COLUMNS = frozenset(
  map(text_tables.fold, ("video_duration", "video_duration_sec", "duration"))
)


def read(files: source_files.SourceFiles) -> AnnotationFile:
  """Reads a custom file: .json, .jsonl, or a table.

  Raises:
    ValueError: the extension is unknown, or the file too large or malformed.
    FileNotFoundError: the file does not exist.
  """
  path = files.root
  if not path.is_file():
    raise FileNotFoundError(f"no annotation file at {path}")
  file, suffix = AnnotationFile(), path.suffix.lower()
  if suffix in (*TABLE_SUFFIXES, ".txt", ".tab"):
    read_table(files.find("*"), file, encoding=files.encoding)
    return file
  if files.encoding is not None:
    raise ValueError(f"{path.name}: an encoding is only for tables of text")
  if suffix == ".json":
    read_json(files.find("*"), file)
  elif suffix in (".jsonl", ".ndjson"):
    read_json_lines(files.find("*"), file)
  else:
    advice = (
      "; save the sheet as CSV (UTF-8)" if suffix in _SHEET_SUFFIXES else ""
    )
    raise ValueError(
      f"cannot read {path.name}: expected a .json, .jsonl, .csv or .tsv file"
      f"{advice}"
    )
  return file


def read_json(
  path: locations.Location, file: AnnotationFile, *, subset: str | None = None
) -> AnnotationFile:
  """Adds the content of a document; `subset` overrides those stated.

  Raises:
    ValueError: it is not JSON of a known form.
  """
  try:
    document = source_files.load_json(path)
  except untrusted.UntrustedFileError:
    if not _begins_with_an_object(path):
      raise
    return read_json_lines(path, file, subset=subset)
  rows = document
  if isinstance(document, dict):
    rows = document.get("annotations")
  if ego4d.holds_clips(document):
    ego4d.read_moments(document, file, path=path, subset=subset)
  elif isinstance(rows, list):
    places = (f"[{index}]" for index in range(len(rows)))
    _read_records(zip(places, rows, strict=True), file, subset)
  else:
    activitynet.read_videos(document, file, name=path, subset=subset)
  return file


def _begins_with_an_object(path) -> bool:
  """Returns True if the first line is a complete object (JSON lines)."""
  _, line = next(iter(source_files.load_lines(path)), ("", ""))
  try:
    return isinstance(untrusted.parse_json(line, name=path), dict)
  except untrusted.UntrustedFileError:
    return False


def read_json_lines(
  path: locations.Location, file: AnnotationFile, *, subset: str | None = None
) -> AnnotationFile:
  """Adds a row per line, each a JSON object; see `read_json`."""
  _read_records(_parsed_lines(path, file), file, subset)
  return file


def _parsed_lines(path, file):
  for where, line in source_files.load_lines(path):
    try:
      yield where, untrusted.parse_json(line, name="it")
    except untrusted.UntrustedFileError as error:
      file.reject(where, "", str(error))


def _read_records(
  records: Iterable[tuple[str, Any]], file: AnnotationFile, subset: str | None
) -> None:
  """Adds objects: spans, queries, or videos with annotations."""
  for where, item in records:
    if not isinstance(item, dict):
      file.reject(where, "", "not an object")
      continue
    row = annotation_tables.named(item)
    query = next((item[k] for k in _QUERY_KEYS if item.get(k) is not None), "")
    video = row.get("video", item.get("image_id"))
    if video is None and file.is_strict and query != "":
      video = ""  # a query may be told by its id alone
    if not isinstance(video, (str, int)) or isinstance(video, bool):
      keys = sorted(map(str, item))[:8]
      file.reject(
        where,
        "",
        f"no video among the keys {keys}; exports of annotation tools are read "
        "by `clap convert annotations`",
      )
    elif isinstance(item.get("annotations"), list):
      activitynet.read_video(str(video), item, file, where, subset=subset)
    elif "relevant_windows" in row or (
      {"qid", *_WINDOW_KEYS} & row.keys()
      and not {"label", "label_id"} & row.keys()
    ):
      _read_query(
        row, file, where, video=str(video), query=query, subset=subset
      )
    else:
      _add_row(
        row,
        file,
        where,
        video=str(video).strip(),
        times=activitynet.times_of(item),
        subset=subset,
      )


def _read_query(row, file, where, *, video, query, subset):
  """Adds a caption per window of a query."""
  windows = next((row[k] for k in _WINDOW_KEYS if k in row), [])
  if not isinstance(windows, list):
    file.reject(where, video, f"got {str(windows)[:40]!r}; expected windows")
    return
  if windows and not any(isinstance(window, list) for window in windows):
    windows = [windows]
  try:
    split = file.split_of(row.get("subset")) if subset is None else subset
    entry = file.same_entry(video, split, where)
  except SpanError as error:
    file.reject(where, video, str(error))
    return
  if duration_sec := annotation_file.positive(row.get("duration")):
    entry.expected_duration_sec = duration_sec
  if query != "":
    file.note_query(query, where, row)
    file.count_of(entry, "queries")
  if not windows and file.is_strict:
    file.reject(
      where,
      video,
      f"got the keys {sorted(map(str, row))[:8]}; expected relevant_windows: a "
      "test file without them cannot be scored",
    )
  for window in windows:
    span = (*annotation_file.pair(window), row.get("caption"))
    file.add(entry, "captions", span=span, where=where, query=query)


def _add_row(
  row: Mapping[str, Any],
  file: AnnotationFile,
  where: str,
  *,
  video: str,
  times: tuple,
  subset: str | None = None,
  decimal_comma: bool = False,
) -> None:
  """Adds the label and the caption of a row, or rejects both."""
  start, end = times
  texts = {"segments": file.label_of(row), "captions": row.get("caption")}
  try:
    if not video:
      raise SpanError("no video name")
    texts = {k: v for k, v in texts.items() if v is not None and v != ""}
    if not texts:
      raise SpanError("neither a label nor a caption")
    for kind, text in texts.items():
      file.checked(kind, start, end, text, where)
    split = file.split_of(row.get("subset")) if subset is None else subset
    entry = file.same_entry(video, split, where)
    if file.is_strict:
      _state_duration(row, entry, decimal_comma=decimal_comma)
  except SpanError as error:
    file.reject(where, video, str(error))
    return
  for kind, text in texts.items():
    file.add(entry, kind, span=(*times, text), where=where)


def _state_duration(row, entry, *, decimal_comma):
  """Records the duration of the row's video, if a column states it."""
  for key, text in row.items():
    if text and text_tables.fold(str(key)) in _DURATION_COLUMNS:
      known_sec = entry.expected_duration_sec
      try:
        duration_sec = text_tables.seconds(text, decimal_comma=decimal_comma)
      except ValueError as error:
        raise SpanError(f"{key}: {error}") from None
      if known_sec not in (None, duration_sec):
        raise SpanError(
          f"{entry.name} has the duration {duration_sec} s here and "
          f"{known_sec} s before"
        )
      entry.expected_duration_sec = duration_sec
      return


def read_table(
  path: locations.Location, file: AnnotationFile, *, encoding: str | None = None
) -> None:
  """Adds the rows of a table of `annotation_tables.COLUMNS`.

  Raises:
    ValueError: the header lacks a column, or the file is not text.
  """
  try:
    table = annotation_tables.read(
      path, more=file.label_columns, encoding=encoding
    )
  except text_tables.EncodingError as error:
    raise ValueError(
      f"{error}, or give its encoding, e.g. clap build --encoding cp1252"
    ) from error
  for row in table.table:
    where, video = f"line {row.line}", row.cells["video"]
    if row.surplus:
      reason = "more cells than the header has columns"
      if not table.decimal_comma:
        reason += " (use decimal points, and quotes around text)"
      file.reject(where, video, reason)
      continue
    try:
      times = table.times(row)
    except ValueError as error:
      file.reject(where, video, "no video name" if not video else str(error))
      continue
    cells = {key: text or None for key, text in row.cells.items()}
    _add_row(
      cells,
      file,
      where,
      video=video,
      times=times,
      decimal_comma=table.decimal_comma,
    )


def read_sentences(
  path: locations.Location, file: AnnotationFile, *, subset: str
) -> None:
  """Adds lines VIDEO START END##SENTENCE; query ids are lines from 0."""
  lines = text_tables.read_lines(path, max_bytes=source_files.MAX_FILE_BYTES)
  for number, line in lines:
    where = f"{path.name} line {number}"
    fields, hashes, sentence = line.partition("##")
    words = fields.split()
    if len(words) != 3 or not hashes:
      file.reject(
        where,
        "",
        f"got {line[:60]!r}; expected a line of VIDEO START END##SENTENCE",
      )
      continue
    entry = file.entry(words[0], subset, where)
    span = (*words[1:], sentence)
    file.note_query(number - 1, where)
    file.add(entry, "captions", span=span, where=where, query=number - 1)
