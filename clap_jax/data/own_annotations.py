"""Reads users' own annotation files: a table or JSON.

A table has a row per span with the columns video, start, end, label or caption
(or both), subset and, where features do not say it, video_duration, all times
in seconds; see storage/annotation_tables for other names of the columns. JSON
is ActivityNet's, in which an annotation may have a caption beside its label.
"""

import dataclasses
import os
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from clap_jax.storage import (
  annotation_tables,
  text_tables,
  untrusted,
  video_names,
)
from clap_jax.storage.locations import PathLike

TABLE_SUFFIXES = (".csv", ".tsv")
_DURATION_COLUMNS = ("video_duration", "video_duration_sec", "duration")
_CAPTION_KEYS = ("caption", "sentence", "text")


class Span(NamedTuple):
  """One annotation; of label and caption one may be missing."""

  video: str
  start_sec: float
  end_sec: float
  label: str | None
  caption: str | None


@dataclasses.dataclass(frozen=True)
class OwnAnnotations:
  """The videos, segments and captions of an annotation file."""

  spans: tuple[Span, ...]
  subsets: Mapping[str, str | None]  # of every video
  duration_sec: Mapping[str, float]  # where the file says so


def is_table(path: PathLike) -> bool:
  """Whether a file is read by `read_table`."""
  return os.fspath(path).lower().endswith(TABLE_SUFFIXES)


def read_table(path: PathLike) -> OwnAnnotations:
  """Reads a table; a video is called by its file's name without the ending.

  Raises:
    ValueError: naming the line: a cell that cannot be read, a video of two
      subsets or two durations.
    OSError: the file cannot be opened.
  """
  table = annotation_tables.read(path)
  names = {text_tables.fold(name) for name in _DURATION_COLUMNS}
  spans: list[Span] = []
  subsets: dict[str, str | None] = {}
  durations: dict[str, float] = {}
  for row in table.table:
    cells = row.cells
    duration = next(
      (text for key, text in cells.items() if text_tables.fold(key) in names),
      None,
    )
    try:
      video = video_names.stem(video_names.base(cells["video"]))
      start_sec, end_sec = table.times(row)
      _set_once(subsets, video, cells.get("subset") or None, "subset")
      if duration:
        length_sec = text_tables.seconds(
          duration, decimal_comma=table.decimal_comma
        )
        _set_once(durations, video, length_sec, "duration of the video")
    except ValueError as error:
      raise ValueError(f"{path}, line {row.line}: {error}") from None
    span = Span(
      video,
      start_sec,
      end_sec,
      cells.get("label") or None,
      cells.get("caption") or None,
    )
    if span.label is None and span.caption is None:
      raise ValueError(
        f"{path}, line {row.line}: got neither a label nor a caption"
      )
    spans.append(span)
  return OwnAnnotations(tuple(spans), subsets, durations)


def _set_once(values: dict, video: str, value: Any, what: str) -> None:
  if values.setdefault(video, value) != value:
    raise ValueError(
      f"{video} has the {what} {value!r} here and {values[video]!r} before"
    )


def read_captions(path: PathLike) -> list[Span]:
  """The captioned annotations of ActivityNet-style JSON.

  Raises:
    ValueError: it is not JSON, or a caption has no times.
    OSError: the file cannot be opened.
  """
  return list(captions_of(untrusted.read_json(path), name=path))


def read_label_ids(path: PathLike) -> dict[int, str]:
  """Class names by the number that annotations state as "label_id".

  Empty for a table, and for JSON without such numbers.

  Raises:
    ValueError: it is not JSON, a number is of two classes, or a class has two.
    OSError: the file cannot be opened.
  """
  if is_table(path):
    return {}
  names: dict[int, str] = {}
  for entry in _entries(untrusted.read_json(path)):
    number, label = entry.get("label_id"), entry.get("label")
    if number is None or label is None:
      continue
    if type(number) is not int or number < 0:
      raise ValueError(
        f"{path}: got the label_id {number!r:.60}; expected a whole number"
      )
    if names.setdefault(number, str(label)) != str(label):
      raise ValueError(
        f"{path} has two labels of label_id {number}: {names[number]!r} and "
        f"{label!r}"
      )
  if len(set(names.values())) < len(names):
    raise ValueError(f"{path} has two label_ids of one label")
  return names


def _entries(document: Any) -> Iterator[dict]:
  """The annotations of all videos, as far as they have the known shape."""
  for _, entries in _videos(document):
    yield from (entry for entry in entries if isinstance(entry, dict))


def _videos(document: Any) -> Iterator[tuple[str, list]]:
  """(video, its annotations), as far as they have the known shape."""
  videos = document.get("database") if isinstance(document, dict) else None
  videos = document if videos is None else videos
  for video, facts in videos.items() if isinstance(videos, dict) else ():
    entries = facts.get("annotations") if isinstance(facts, dict) else None
    yield video, entries if isinstance(entries, list) else []


def captions_of(document: Any, *, name: PathLike) -> Iterator[Span]:
  """As `read_captions`, of a parsed document; `name` is for errors."""
  for video, entries in _videos(document):
    for index, entry in enumerate(entries):
      given = entry if isinstance(entry, dict) else {}
      caption = next((given[k] for k in _CAPTION_KEYS if given.get(k)), None)
      if caption is None:
        continue
      try:
        start_sec, end_sec = map(text_tables.seconds, given["segment"])
      except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
          f"{name}, [{video!r}].annotations[{index}]: got no times ({error}); "
          "expected a segment [start, end] in seconds"
        ) from None
      label = given.get("label")
      yield Span(
        video,
        start_sec,
        end_sec,
        None if label is None else str(label),
        str(caption),
      )
