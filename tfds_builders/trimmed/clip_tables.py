"""Reads annotation files of trimmed clips: one row per clip, with attributes.

A file is a table, a list of objects, JSON lines, or an object of videos. A row
names the video and its label and may have a caption, a subset and a group; all
other columns are attributes, such as the person or the view.
"""

import pathlib
from collections.abc import Iterator

from clap_jax.annotations import (
  annotation_file,
  annotation_tables,
  source_files,
)
from clap_jax.annotations.annotation_file import SpanError
from clap_jax.storage import text_tables, untrusted
from tfds_builders.trimmed.clips import Clip, ClipList

_KEYS = ("video", "label", "caption", "subset")
_TIMES = ("start", "end", "start_ms", "end_ms", "start_frame", "end_frame")
_ROOTS = ("database", "videos")
_TABLE_SUFFIXES = (".csv", ".tsv", ".txt", ".tab")


def read(files: source_files.SourceFiles) -> ClipList:
  """Reads a file according to its extension.

  Raises:
    ValueError: the extension is unknown, or the file is malformed or has times
      of segments.
  """
  path, found = files.use(files.root), ClipList()
  for where, row in _rows(path, files.encoding):
    try:
      found.add(_clip(row, where))
    except SpanError as error:
      found.file.reject(where, str(row.get("video", "")), str(error))
  found.check_groups()
  return found


def _rows(path: pathlib.Path, encoding) -> Iterator[tuple[str, dict]]:
  suffix = path.suffix.lower()
  if suffix in _TABLE_SUFFIXES:
    return _table_rows(path, encoding)
  if encoding is not None:
    raise ValueError(f"{path.name}: an encoding is only for tables of text")
  if suffix == ".json":
    return _document_rows(source_files.load_json(path), path)
  if suffix in (".jsonl", ".ndjson"):
    lines = source_files.load_lines(path)
    return _object_rows(
      (where, untrusted.parse_json(line, name=f"{path}, {where}"))
      for where, line in lines
    )
  raise ValueError(
    f"cannot read {path.name}: expected a .csv, .tsv, .json or .jsonl file"
  )


def _table_rows(path, encoding):
  columns = annotation_tables.COLUMNS
  table = text_tables.read_table(
    path, columns=columns, required=("video", "label"), encoding=encoding
  )
  times = sorted(table.columns & set(_TIMES))
  if times:
    raise ValueError(
      f"{path} has the header {list(table.header)}, with times: a trimmed clip "
      "shows its action from end to end. Build the dataset `folder` for "
      "segments within videos, or remove the columns"
    )
  for row in table:
    where = f"{path.name} line {row.line}"
    yield where, dict(row.cells) | ({"surplus": True} if row.surplus else {})


def _document_rows(document, path):
  if isinstance(document, list):
    yield from _object_rows(
      (f"[{index}]", item) for index, item in enumerate(document)
    )
    return
  if not isinstance(document, dict):
    raise ValueError(
      f"{path} holds a {type(document).__name__}; expected a list of objects "
      "with video and label"
    )
  root = next((key for key in _ROOTS if key in document), None)
  videos = document[root] if root else document
  if not isinstance(videos, dict):
    raise ValueError(f"{path}: {root} is not an object of videos")
  for key, value in videos.items():
    if not isinstance(value, dict):
      raise ValueError(f"{path}: {key[:100]!r} is not an object with a label")
    where = f"{root}.{key[:200]}" if root else key[:200]
    yield from _object_rows([(where, {**value, "video": key})])


def _object_rows(items):
  for where, item in items:
    given = item if isinstance(item, dict) else {}
    yield where, annotation_tables.named(given, keys=_KEYS)


def _clip(row: dict, where: str) -> Clip:
  row = dict(row)
  if row.pop("surplus", False):
    raise SpanError("more cells than the header has columns")
  video, label = row.pop("video", None), row.pop("label", None)
  if not isinstance(video, (str, int)) or not str(video).strip():
    raise SpanError("no video")
  given = row.pop("annotations", None)
  label = _only_label(given) if label is None else label
  if isinstance(label, bool) or not isinstance(label, (str, int)):
    raise SpanError(f"a label is a text, got {type(label).__name__}")
  subset = row.pop("subset", None)
  captions = _texts(row.pop("caption", None)) + _texts(
    row.pop("captions", None)
  )
  attributes = {
    key: str(value).strip()
    for key, value in row.items()
    if isinstance(value, (str, int, float)) and str(value).strip()
  }
  return Clip(
    str(video).strip(),
    str(label).strip(),
    where,
    subset=annotation_file.split_of(subset) if subset else None,
    group=attributes.pop("group", ""),
    attributes=attributes,
    captions=captions,
  )


def _only_label(given) -> str:
  """Returns the label in ActivityNet's form, of which a clip has one."""
  if not given:
    return ""
  items = given if isinstance(given, list) else []
  labels = [i.get("label") for i in items if isinstance(i, dict)]
  if not labels or any(label != labels[0] for label in labels):
    raise SpanError("no label, or several: a trimmed clip shows one action")
  return labels[0]


def _texts(value) -> list[str]:
  """Returns captions: one or a list, each a text or an object with "text"."""
  values = value if isinstance(value, list) else [value]
  texts = [v.get("text") if isinstance(v, dict) else v for v in values]
  if any(not isinstance(text, str) for text in texts if text is not None):
    raise SpanError("a caption is not a text")
  return [text for text in texts if text]
