"""Reads annotation files: ActivityNet-style JSON and CSV.

Nothing in a file stops the reading of the rest: what cannot be used is
rejected with its place in the file.
"""

import csv
import dataclasses
import json
import math
import pathlib
import re

MAX_FILE_BYTES = 1 << 30
MAX_TEXT_CHARACTERS = 2_000
WHOLE_VIDEO_SEC = 1e9  # the end of a label without a segment; clipped later
_TEXT_KEYS = ("text", "sentence", "caption")
_SUBSETS = {
  "training": "train",
  "train": "train",
  "": "train",
  "validation": "validation",
  "val": "validation",
  "testing": "test",
  "test": "test",
}
CSV_COLUMNS = ("video", "start", "end", "label", "caption")


@dataclasses.dataclass(frozen=True)
class Span:
  """A labelled or captioned span as the file has it, unchecked against the
  video; `end_sec` is WHOLE_VIDEO_SEC for the whole video."""

  start_sec: float
  end_sec: float
  text: str
  where: str


@dataclasses.dataclass
class Entry:
  """All that a file says about one video."""

  name: str
  subset: str
  where: str
  segments: list[Span] = dataclasses.field(default_factory=list)
  captions: list[Span] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class AnnotationFile:
  """The videos of a file in its order, and what could not be used."""

  entries: dict[str, Entry]
  rejected: list[dict]  # {"where", "video", "reason"}

  def reject(self, where: str, video: str, reason: str) -> None:
    self.rejected.append(
      {"where": where, "video": str(video)[:200], "reason": reason}
    )


class _SpanError(ValueError):
  pass


def _number(value):
  if isinstance(value, bool) or not isinstance(value, (int, float, str)):
    raise _SpanError(f"not a number of seconds: {str(value)[:40]!r}")
  try:
    seconds = float(value)
  except (ValueError, OverflowError):
    raise _SpanError(f"not a number of seconds: {str(value)[:40]!r}") from None
  if not math.isfinite(seconds):
    raise _SpanError(f"not a finite number of seconds: {str(value)[:40]!r}")
  return seconds


def _make_span(start, end, text, where):
  start_sec, end_sec = _number(start), _number(end)
  if end_sec <= start_sec:
    raise _SpanError(
      f"ends at {end_sec} s, not after its start at {start_sec} s"
    )
  if not isinstance(text, str) or not text.strip():
    raise _SpanError("no label or caption text")
  if len(text) > MAX_TEXT_CHARACTERS or "\0" in text:
    raise _SpanError(
      f"text longer than {MAX_TEXT_CHARACTERS} characters or "
      "with a NUL character"
    )
  return Span(start_sec, end_sec, " ".join(text.split()), where)


def _subset(value):
  name = str(value or "").strip().lower()
  name = _SUBSETS.get(name, name)
  if not re.fullmatch(r"[a-z][a-z0-9_]{0,31}", name):
    raise _SpanError(
      f"unusable subset {str(value)[:40]!r}; use train, "
      "selection, validation or test"
    )
  return name


def _read_spans(value, where, keys, *, depth=0):
  """(start, end, text, where) of one video's spans, in any known shape.

  The text of a span is under the first of `keys` that it has. What has no
  known shape gives a span of nothing, to be rejected with its place.
  """
  if isinstance(value, dict) and "timestamps" in value:
    times, texts = value["timestamps"], value.get("sentences")
    if isinstance(times, list) and isinstance(texts, list):
      for index, (span, text) in enumerate(zip(times, texts, strict=False)):
        yield *_pair(span), text, f"{where}.timestamps[{index}]"
      return
  elif isinstance(value, dict) and depth < 2:  # one set for each annotator
    for key, each in value.items():
      yield from _read_spans(each, f"{where}.{key}", keys, depth=depth + 1)
    return
  elif isinstance(value, list):
    items = [item if isinstance(item, dict) else {} for item in value]
    for index, item in enumerate(items):
      text = next((item[key] for key in keys if key in item), None)
      yield *_pair(item.get("segment")), text, f"{where}[{index}]"
    return
  yield None, None, None, where


def _pair(value):
  good = isinstance(value, (list, tuple)) and len(value) == 2
  return tuple(value) if good else (None, None)


def _read_video(file, key, value, where):
  try:
    entry = Entry(key, _subset(value.get("subset")), where)
  except _SpanError as error:
    file.reject(where, key, str(error))
    return
  annotations = value.get("annotations", [])
  sources = [
    (annotations, "annotations", ("label",), entry.segments),
    (value.get("captions", []), "captions", _TEXT_KEYS, entry.captions),
  ]
  if isinstance(annotations, list):  # captions beside the labels
    told = [
      a if isinstance(a, dict) and a.get("caption") else None
      for a in annotations
    ]
    sources.append((told, "annotations", ("caption",), entry.captions))
  if isinstance(value.get("label"), str) and not annotations:
    whole = [{"segment": [0.0, WHOLE_VIDEO_SEC], "label": value["label"]}]
    sources.append((whole, "label", ("label",), entry.segments))
  spans = [
    (*span, target)
    for source, name, keys, target in sources
    for span in _read_spans(source, f"{where}.{name}", keys)
    if not (keys == ("caption",) and span[2] is None)
  ]
  for start, end, text, place, target in spans:
    try:
      target.append(_make_span(start, end, text, place))
    except _SpanError as error:
      file.reject(place, key, str(error))
  file.entries[key] = entry


def read_json(path: pathlib.Path) -> AnnotationFile:
  """Reads {"database": {id: ...}} or {"videos": {file name: ...}}.

  Raises:
    ValueError: if it is not JSON of that shape.
  """
  try:
    document = json.loads(path.read_text(encoding="utf-8-sig"))
  except (ValueError, RecursionError) as error:
    raise ValueError(f"{path} is not JSON: {error}") from error
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
  file = AnnotationFile({}, [])
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
      raise _SpanError("no video name")
    if row.get(None):
      raise _SpanError("more cells than the header has columns")
    subset = _subset(row.get("subset"))
    known = file.entries.get(name)
    if known and known.subset != subset:
      raise _SpanError(
        f"subset {subset!r}, but {known.subset!r} at {known.where}"
      )
    label, caption = row.get("label") or "", row.get("caption") or ""
    spans = [
      _make_span(row.get("start"), row.get("end"), text, where)
      if text.strip()
      else None
      for text in (label, caption)
    ]
    if spans == [None, None]:
      raise _SpanError("neither a label nor a caption")
  except _SpanError as error:
    file.reject(where, name, str(error))
    return
  entry = file.entries.setdefault(name, Entry(name, subset, where))
  for span, target in zip(spans, (entry.segments, entry.captions), strict=True):
    if span:
      target.append(span)


def read_csv(path: pathlib.Path) -> AnnotationFile:
  """Reads rows `video,start,end,label,caption[,subset]` under that header.

  Raises:
    ValueError: if the header lacks a column, or the text is not UTF-8 CSV.
  """
  file = AnnotationFile({}, [])
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


def read(path: pathlib.Path) -> AnnotationFile:
  """Reads an annotation file by its ending, .json or .csv.

  Raises:
    ValueError: for other endings, files that are too large or not in shape.
    FileNotFoundError: if it is not there.
  """
  if not path.is_file():
    raise FileNotFoundError(f"no annotation file at {path}")
  if path.stat().st_size > MAX_FILE_BYTES:
    raise ValueError(f"{path} is larger than {MAX_FILE_BYTES} bytes")
  readers = {".json": read_json, ".csv": read_csv}
  if path.suffix.lower() not in readers:
    raise ValueError(f"cannot read {path.name}: expected a .json or .csv file")
  return readers[path.suffix.lower()](path)
