"""Converts exports of annotation tools to the JSON that `folder` reads."""

import dataclasses
import os
import pathlib

from clap_jax.annotations.annotation_file import AnnotationFile
from tfds_builders.tool_exports import boris, cvat, elan, label_studio, via
from tfds_builders.tool_exports.export import Export, Request

_READERS = {
  "elan": elan.read,
  "boris": boris.read,
  "labelstudio": label_studio.read,
  "via": via.read,
  "cvat": cvat.read,
}
TOOLS = tuple(_READERS)


@dataclasses.dataclass(frozen=True)
class Converted:
  """The content of an export.

  Attributes:
    document: ActivityNet-style JSON.
    rejected: {"where", "video", "reason"} of every row that is not a segment.
    notes: assumptions, as texts.
  """

  document: dict
  rejected: list[dict]
  notes: list[str]


def convert(
  path: str | os.PathLike,
  *,
  tool: str,
  fps: float | None = None,
  video: str | None = None,
  encoding: str | None = None,
) -> Converted:
  """Reads an export.

  Args:
    path: file written by the tool.
    tool: one of TOOLS.
    fps, video, encoding: see `export.Request`.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: the tool is unknown, the file is not one of its exports or has
      no usable segment; the message has the first reasons.
  """
  if tool not in _READERS:
    raise ValueError(f"unknown tool {tool!r}; choose one of {', '.join(TOOLS)}")
  if fps is not None and not 0 < fps < 1e6:
    raise ValueError(f"fps is {fps}; expected frames per second above 0")
  export = Export(Request(pathlib.Path(path), fps, video, encoding))
  _READERS[tool](export)
  file = export.file
  if not any(entry.segments for entry in file.entries.values()):
    reasons = "; ".join(describe(note) for note in file.rejected[:3])
    raise ValueError(
      f"{path}: no usable segment in this export of {tool}; "
      f"{len(file.rejected)} rejected: {reasons or 'it is empty'}"
    )
  for entry in file.entries.values():
    entry.segments.sort(key=lambda s: (s.start_sec, s.end_sec, s.text))
  return converted(file, tool, export.notes)


def converted(file: AnnotationFile, source: str, notes: list[str]) -> Converted:
  """Converts annotations to JSON; videos without any span are left out.

  A captioned span is an annotation with a "caption" instead of a "label".
  """
  database = {}
  for name, entry in file.entries.items():
    spans = [
      {"segment": [span.start_sec, span.end_sec], key: span.text}
      for key, own in (("label", entry.segments), ("caption", entry.captions))
      for span in own
    ]
    if not spans:
      continue
    video: dict = {"subset": entry.subset}
    if entry.expected_duration_sec is not None:
      video["duration"] = entry.expected_duration_sec
    database[name] = video | {"annotations": spans}
  rejected = [
    {key: note[key] for key in ("where", "video", "reason")}
    for note in file.rejected
  ]
  document = {"source": source, "notes": notes, "database": database}
  return Converted(document, rejected, notes)


def describe(note: dict) -> str:
  """Describes a rejected row in one line."""
  return f"{note['where']}: {note['video']}: {note['reason']}"
