"""Reads annotation files: ActivityNet-style JSON and CSV.

Nothing in a file stops the reading of the rest: what cannot be used is
rejected with its place in the file.
"""

import csv
import pathlib

from tfds_builders import annotations
from tfds_builders.annotations import (
  WHOLE_VIDEO_SEC,
  AnnotationFile,
  SpanError,
)

_TEXT_KEYS = ("text", "sentence", "caption")
CSV_COLUMNS = ("video", "start", "end", "label", "caption")


def _subset(value):
  name = str(value or "").strip().lower()
  return annotations.check_split(annotations.SPLITS.get(name, name))


def _read_spans(value, where, keys, *, depth=0):
  """(start, end, text, where) of one video's spans, in any known shape.

  The text of a span is under the first of `keys` that it has. What has no
  known shape gives a span of nothing, to be rejected with its place.
  """
  if isinstance(value, dict) and "timestamps" in value:
    times, texts = value["timestamps"], value.get("sentences")
    if isinstance(times, list) and isinstance(texts, list):
      for index, (span, text) in enumerate(zip(times, texts, strict=False)):
        yield *annotations.pair(span), text, f"{where}.timestamps[{index}]"
      return
  elif isinstance(value, dict) and depth < 2:  # one set for each annotator
    for key, each in value.items():
      yield from _read_spans(each, f"{where}.{key}", keys, depth=depth + 1)
    return
  elif isinstance(value, list):
    items = [item if isinstance(item, dict) else {} for item in value]
    for index, item in enumerate(items):
      text = next((item[key] for key in keys if key in item), None)
      yield *annotations.pair(item.get("segment")), text, f"{where}[{index}]"
    return
  yield None, None, None, where


def _read_video(file, key, value, where):
  try:
    subset = _subset(value.get("subset"))
  except SpanError as error:
    file.reject(where, key, str(error))
    return
  entry = file.entry(key, subset, where)
  entry.expected_duration_sec = annotations.positive(value.get("duration"))
  given = value.get("annotations", [])
  sources = [
    (given, "annotations", ("label",), "segments"),
    (value.get("captions", []), "captions", _TEXT_KEYS, "captions"),
  ]
  if isinstance(given, list):  # captions beside the labels
    told = [
      a if isinstance(a, dict) and a.get("caption") else None for a in given
    ]
    sources.append((told, "annotations", ("caption",), "captions"))
  if isinstance(value.get("label"), str) and not given:
    whole = [{"segment": [0.0, WHOLE_VIDEO_SEC], "label": value["label"]}]
    sources.append((whole, "label", ("label",), "segments"))
  for source, name, keys, kind in sources:
    for start, end, text, place in _read_spans(source, f"{where}.{name}", keys):
      if keys != ("caption",) or text is not None:
        file.add(entry, kind, span=(start, end, text), where=place)


def read_json(path: pathlib.Path) -> AnnotationFile:
  """Reads {"database": {id: ...}} or {"videos": {file name: ...}}.

  Raises:
    ValueError: if it is not JSON of that shape.
  """
  document = annotations.load_json(path)
  root = next(
    (
      k
      for k in ("database", "videos")
      if isinstance(document, dict) and isinstance(document.get(k), dict)
    ),
    None,
  )
  if root is None:
    raise ValueError(
      f'{path} has neither "database" nor "videos" with an object of '
      'videos; expected {"database": {id: {"annotations": [{"segment": '
      '[start, end], "label": name}]}}}'
    )
  file = AnnotationFile()
  for key, value in document[root].items():
    where = f"{root}.{key[:200]}"
    if isinstance(value, dict):
      _read_video(file, key, value, where)
    else:
      file.reject(where, key, "not an object")
  return file


def _read_row(file, row, where):
  name = (row.get("video") or "").strip()
  try:
    if not name:
      raise SpanError("no video name")
    if row.get(None):
      raise SpanError("more cells than the header has columns")
    subset = _subset(row.get("subset"))
    known = file.entries.get(name)
    if known and known.subset != subset:
      raise SpanError(
        f"subset {subset!r}, but {known.subset!r} at {known.where}"
      )
    texts = {
      "segments": row.get("label") or "",
      "captions": row.get("caption") or "",
    }
    texts = {kind: text for kind, text in texts.items() if text.strip()}
    if not texts:
      raise SpanError("neither a label nor a caption")
    for text in texts.values():
      annotations.make_span(row.get("start"), row.get("end"), text, where)
  except SpanError as error:
    file.reject(where, name, str(error))
    return
  entry = file.entry(name, subset, where)
  for kind, text in texts.items():
    span = (row.get("start"), row.get("end"), text)
    file.add(entry, kind, span=span, where=where)


def read_csv(path: pathlib.Path) -> AnnotationFile:
  """Reads rows `video,start,end,label,caption[,subset]` under that header.

  Raises:
    ValueError: if the header lacks a column, or the text is not UTF-8 CSV.
  """
  file = AnnotationFile()
  try:
    with path.open(newline="", encoding="utf-8-sig") as lines:
      reader = csv.DictReader(lines)
      header = reader.fieldnames or []
      missing = [c for c in ("video", "start", "end") if c not in header]
      if missing or not {"label", "caption"} & set(header):
        raise ValueError(
          f"{path} has the header {header}; expected "
          f"{','.join(CSV_COLUMNS)} and at will subset"
        )
      for row in reader:
        _read_row(file, row, f"line {reader.line_num}")
  except (csv.Error, UnicodeDecodeError) as error:
    raise ValueError(f"{path} is not UTF-8 CSV: {error}") from error
  return file


def read(files: annotations.SourceFiles) -> AnnotationFile:
  """Reads an annotation file by its ending, .json or .csv.

  Raises:
    ValueError: for other endings, files that are too large or not in shape.
    FileNotFoundError: if it is not there.
  """
  path = files.root
  if not path.is_file():
    raise FileNotFoundError(f"no annotation file at {path}")
  readers = {".json": read_json, ".csv": read_csv}
  if path.suffix.lower() not in readers:
    raise ValueError(f"cannot read {path.name}: expected a .json or .csv file")
  return readers[path.suffix.lower()](files.find("*"))
