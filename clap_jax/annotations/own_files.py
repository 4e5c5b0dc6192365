"""Reads annotation files: ActivityNet-style JSON, rows of JSON, and tables.

Nothing in a file stops the reading of the rest: what cannot be used is
rejected with its place in the file.
"""

import pathlib

from clap_jax.annotations import annotation_file, source_files
from clap_jax.annotations.annotation_file import (
  WHOLE_VIDEO_SEC,
  AnnotationFile,
  SpanError,
)
from clap_jax.storage import annotation_tables, text_tables, untrusted

_TEXT_KEYS = ("text", "sentence", "caption")
_LABEL_KEYS = ("label", "label_id")
_DURATION_KEYS = ("duration", "duration_second", "duration_sec")
_ROOTS = ("database", "videos")
# An object of videos without a root: what at least one of them must have.
_VIDEO_KEYS = ("annotations", "captions", "timestamps", "subset", "label")
_TABLE_SUFFIXES = (".csv", ".tsv", ".txt", ".tab")
_LEFT_OUT = object()  # in the place of an annotation of another kind
_SHEET_SUFFIXES = (".xlsx", ".xls", ".ods", ".numbers")


def _item_times(item):
  """(start, end) of one annotation, under any name that people use."""
  for key in ("segment", "timestamp"):
    if key in item:
      return annotation_file.pair(item[key])
  found = {}
  names = {
    text_tables.fold(name): key
    for key in ("start", "end", "start_ms", "end_ms")
    for name in (key, *annotation_tables.COLUMNS[key])
  }
  for key, value in item.items():
    found.setdefault(names.get(text_tables.fold(str(key))), value)
  if {"start", "end"} <= set(found):
    return found["start"], found["end"]
  if {"start_ms", "end_ms"} <= set(found):
    times = [
      annotation_file.number(found[key]) for key in ("start_ms", "end_ms")
    ]
    return tuple(None if t is None else t / 1000 for t in times)
  raise SpanError(
    f"no times: got the keys {sorted(map(str, item))[:8]}; expected "
    '"segment": [start, end] or start and end, in seconds'
  )


def _read_spans(value, where, keys, *, depth=0):
  """(start, end, text, where) of one video's spans, in any known shape.

  The text of a span is under the first of `keys` that it has. Instead of the
  times, what has no known shape gives the reason, to be rejected with its
  place.
  """
  if isinstance(value, dict) and "timestamps" in value:
    times, texts = value["timestamps"], value.get("sentences")
    if isinstance(times, list) and isinstance(texts, list):
      for index, (span, text) in enumerate(zip(times, texts, strict=False)):
        yield *annotation_file.pair(span), text, f"{where}.timestamps[{index}]"
      return
  elif isinstance(value, dict) and depth < 2:  # one set for each annotator
    for key, each in value.items():
      yield from _read_spans(each, f"{where}.{key}", keys, depth=depth + 1)
    return
  elif isinstance(value, list):
    for index, given in enumerate(value):
      if given is _LEFT_OUT:
        continue
      item = given if isinstance(given, dict) else {}
      text = next((item[key] for key in keys if key in item), None)
      try:
        times = _item_times(item)
      except SpanError as error:
        times = (error, error)
      yield *times, text, f"{where}[{index}]"
    return
  yield None, None, None, where


def _add_spans(file, entry, kind, source, *, where, keys, names):
  """Adds what `_read_spans` finds; `names` are those of class numbers."""
  for start, end, text, place in _read_spans(source, where, keys):
    if isinstance(start, SpanError):
      file.count_of(entry, kind)
      file.reject(place, entry.name, str(start), split=entry.subset)
      continue
    named = names.get(text, str(text)) if type(text) is int else text
    file.add(entry, kind, span=(start, end, named), where=place)


def _read_video(file, key, value, where, *, names):
  try:
    subset = annotation_file.split_of(value.get("subset", value.get("split")))
    entry = _entry(file, key, subset, where)
  except SpanError as error:
    file.reject(where, key, str(error))
    return
  durations = [value[k] for k in _DURATION_KEYS if k in value]
  entry.expected_duration_sec = annotation_file.positive(
    durations[0] if durations else None
  )
  given = value.get("annotations", [])
  sources = [
    (given, "annotations", _LABEL_KEYS, "segments"),
    (value.get("captions", []), "captions", _TEXT_KEYS, "captions"),
  ]
  if isinstance(given, list):  # captions beside the labels
    has_caption = [
      isinstance(a, dict) and bool(a.get("caption")) for a in given
    ]
    captions = [
      a if has else _LEFT_OUT for a, has in zip(given, has_caption, strict=True)
    ]
    sources.append((captions, "annotations", ("caption",), "captions"))
    labels = [
      _LEFT_OUT if has and not any(k in a for k in _LABEL_KEYS) else a
      for a, has in zip(given, has_caption, strict=True)
    ]
    sources[0] = (labels, *sources[0][1:])
  if "timestamps" in value:
    timed = {k: value.get(k) for k in ("timestamps", "sentences")}
    sources.append((timed, "", _TEXT_KEYS, "captions"))
  if isinstance(value.get("label"), (str, int)) and not given:
    whole = [{"segment": [0.0, WHOLE_VIDEO_SEC], "label": value["label"]}]
    sources.append((whole, "label", ("label",), "segments"))
  for source, name, keys, kind in sources:
    place = f"{where}.{name}" if name else where
    _add_spans(file, entry, kind, source, where=place, keys=keys, names=names)


def _entry(file, name, subset, where):
  """The entry of a video; another subset than before is refused."""
  known = file.entries.get(name)
  if known and known.subset != subset:
    raise SpanError(f"subset {subset!r}, but {known.subset!r} at {known.where}")
  return file.entry(name, subset, where)


def _class_names(videos) -> dict[int, str]:
  """Names of class numbers, where the same annotation gives both.

  A number with two names has none: it stands for itself.
  """
  names: dict[int, set[str]] = {}
  for value in videos:
    given = value.get("annotations") if isinstance(value, dict) else None
    for item in given if isinstance(given, list) else ():
      if isinstance(item, dict) and isinstance(item.get("label"), str):
        number = item.get("label_id")
        if type(number) is int:
          names.setdefault(number, set()).add(item["label"].strip())
  return {n: found.pop() for n, found in names.items() if len(found) == 1}


def read_json(path: pathlib.Path) -> AnnotationFile:
  """Reads {"database": {id: ...}}, {"videos": {file name: ...}} or rows.

  The object of videos may stand without "database" (as BMN writes it). A list
  holds rows as in a table, one object each.

  Raises:
    ValueError: if it is not JSON of one of these shapes.
  """
  document = source_files.load_json(path)
  if isinstance(document, list):
    return _read_records(
      (f"[{index}]", item) for index, item in enumerate(document)
    )
  root = _root_of(document, path)
  file = AnnotationFile()
  videos = document[root] if root else document
  names = _class_names(videos.values())
  for key, value in videos.items():
    where = f"{root}.{key[:200]}" if root else key[:200]
    if isinstance(value, dict):
      _read_video(file, key, value, where, names=names)
    else:
      file.reject(where, key, "not an object")
  return file


def _root_of(document, path) -> str | None:
  """The key of the object of videos; None where the document is that."""
  if isinstance(document, dict):
    for key in _ROOTS:
      if isinstance(document.get(key), dict):
        return key
    videos = [v for v in document.values() if isinstance(v, dict)]
    if not any(key in document for key in _ROOTS) and any(
      key in video for video in videos for key in _VIDEO_KEYS
    ):
      return None
  got = (
    f"an object with the keys {sorted(map(str, document))[:8]}"
    if isinstance(document, dict)
    else type(document).__name__
  )
  raise ValueError(
    f'{path} has neither "database" nor "videos" with an object of '
    f'videos, but {got}; expected {{"database": {{id: {{"annotations": '
    '[{"segment": [start, end], "label": name}]}}}, or a list of objects '
    "with video, start, end and label. `clap convert annotations` reads the "
    "exports of ELAN, BORIS, Label Studio, VIA and CVAT"
  )


def read_json_lines(path: pathlib.Path) -> AnnotationFile:
  """Reads one JSON object per line, each a row as in a table.

  Raises:
    ValueError: if a line is not JSON.
  """
  return _read_records(
    (where, untrusted.parse_json(line, name=f"{path}, {where}"))
    for where, line in source_files.load_lines(path)
  )


def _read_records(records) -> AnnotationFile:
  """Rows as objects: one span each, or a video with its annotations."""
  file = AnnotationFile()
  names = {
    text_tables.fold(name): key
    for key in ("video", "label", "caption", "subset")
    for name in (key, *annotation_tables.COLUMNS[key])
  }
  for where, item in records:
    if not isinstance(item, dict):
      file.reject(where, "", "not an object")
      continue
    row: dict = {}
    for key, value in item.items():
      row.setdefault(names.get(text_tables.fold(str(key))), value)
    video = row.get("video")
    if not isinstance(video, (str, int)) or isinstance(video, bool):
      keys = sorted(map(str, item))[:8]
      file.reject(
        where,
        "",
        f"no video among the keys {keys}; exports of annotation tools are read "
        "by `clap convert annotations`",
      )
    elif isinstance(item.get("annotations"), list):
      _read_video(file, str(video), item, where, names={})
    else:
      windows = item.get("relevant_windows")
      spans = windows if isinstance(windows, list) else [None]
      for span in spans:
        _read_record(file, item, row, where, span=span)
  return file


def _read_record(file, item, row, where, *, span):
  try:
    times = _item_times(item) if span is None else annotation_file.pair(span)
  except SpanError as error:
    file.reject(where, str(row["video"]), str(error))
    return
  texts = {
    "segments": row.get("label", item.get("label_id")),
    "captions": row.get("caption"),
  }
  _add_row(
    file,
    str(row["video"]).strip(),
    times=times,
    texts=texts,
    subset=row.get("subset"),
    where=where,
  )


def _add_row(file, name, *, times, texts, subset, where):
  """Adds the label and the caption of one row, or rejects it whole."""
  try:
    if not name:
      raise SpanError("no video name")
    texts = {k: v for k, v in texts.items() if v is not None and v != ""}
    if not texts:
      raise SpanError("neither a label nor a caption")
    for text in texts.values():
      annotation_file.make_span(*times, text, where)
    entry = _entry(file, name, annotation_file.split_of(subset), where)
  except SpanError as error:
    file.reject(where, name, str(error))
    return
  for kind, text in texts.items():
    file.add(entry, kind, span=(*times, text), where=where)


def _read_row(file, table, row, where):
  name = row.cells["video"]
  if row.surplus:
    reason = "more cells than the header has columns"
    if not table.decimal_comma:
      reason += " (a decimal comma is written as a point, text in quotes)"
    file.reject(where, name, reason)
    return
  try:
    times = table.times(row)
  except ValueError as error:
    file.reject(where, name, "no video name" if not name else str(error))
    return
  _add_row(
    file,
    name,
    times=times,
    texts={
      "segments": row.cells.get("label"),
      "captions": row.cells.get("caption"),
    },
    subset=row.cells.get("subset"),
    where=where,
  )


def read_csv(
  path: pathlib.Path, *, encoding: str | None = None
) -> AnnotationFile:
  """Reads a table of `annotation_tables.COLUMNS`.

  Raises:
    ValueError: if the header lacks a column, or it is not text.
  """
  file = AnnotationFile()
  try:
    table = annotation_tables.read(path, encoding=encoding)
  except text_tables.EncodingError as error:
    raise ValueError(
      f"{error}, or give its encoding, e.g. clap build --encoding cp1252"
    ) from error
  for row in table.table:
    _read_row(file, table, row, f"line {row.line}")
  return file


def read(files: source_files.SourceFiles) -> AnnotationFile:
  """Reads an annotation file by its ending: .json, .jsonl, or of a table.

  Raises:
    ValueError: for other endings, files that are too large or not in shape.
    FileNotFoundError: if it is not there.
  """
  path = files.root
  if not path.is_file():
    raise FileNotFoundError(f"no annotation file at {path}")
  suffix = path.suffix.lower()
  if suffix in _TABLE_SUFFIXES:
    return read_csv(files.find("*"), encoding=files.encoding)
  if files.encoding is not None:
    raise ValueError(f"{path.name}: an encoding is only for tables of text")
  if suffix == ".json":
    return read_json(files.find("*"))
  if suffix in (".jsonl", ".ndjson"):
    return read_json_lines(files.find("*"))
  advice = (
    "; save the sheet as CSV (UTF-8)" if suffix in _SHEET_SUFFIXES else ""
  )
  raise ValueError(
    f"cannot read {path.name}: expected a .json, .jsonl, .csv or .tsv file"
    f"{advice}"
  )
