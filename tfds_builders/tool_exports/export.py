"""Defines the input and the result of readers of tools' exports."""

import dataclasses
import pathlib

from clap_jax.annotations import annotation_file
from clap_jax.storage import video_names

MAX_BYTES = 1 << 28  # maximum size of an export
# Rate of exports that count frames and do not state it.
ASSUMED_FPS = 25.0


@dataclasses.dataclass(frozen=True)
class Request:
  """A file, and options for information that it may lack.

  Attributes:
    path: the export.
    fps: frames per second of the videos, for exports that count frames.
    video: name of the video, for exports of one video that do not name it.
    encoding: encoding of a table that is neither UTF-8 nor UTF-16.
  """

  path: pathlib.Path
  fps: float | None = None
  video: str | None = None
  encoding: str | None = None


class Export:
  """The segments of an export, rejected rows, and assumptions."""

  def __init__(self, request: Request):
    self.request = request
    self.file = annotation_file.AnnotationFile()
    self.notes: list[str] = []

  def add(self, video: str | None, start, end, label, *, where: str) -> None:
    """Adds a segment in seconds, or rejects it with the reason."""
    name = self._name(video)
    entry = self.file.entry(name, "train", where)
    self.file.add(entry, "segments", span=(start, end, label), where=where)

  def reject(self, video: str | None, reason: str, *, where: str) -> None:
    """Records a row that is not a segment."""
    self.file.reject(where, self._name(video), reason, split="train")

  def length(self, video: str | None, duration_sec: object) -> None:
    """Records a video's length if the export has it."""
    entry = self.file.entries.get(self._name(video))
    duration_sec = annotation_file.positive(duration_sec)
    if entry and duration_sec:
      entry.expected_duration_sec = duration_sec

  def fps(self, stated: object = None) -> float:
    """Returns the frame rate: requested, stated, or assumed with a note."""
    if self.request.fps is not None:
      return self.request.fps
    found = annotation_file.positive(stated)
    if found is None:
      self.note(
        "the export counts frames and states no frame rate: "
        f"{ASSUMED_FPS:g} frames per second are assumed; give --fps if the "
        "videos were annotated at another rate"
      )
    return found or ASSUMED_FPS

  def note(self, text: str) -> None:
    """Records an assumption, once."""
    if text not in self.notes:
      self.notes.append(text)

  def _name(self, video: str | None) -> str:
    """Returns the video's base name, or the name of the request or file."""
    found = video_names.base(video) if video else ""
    if found:
      return found
    if self.request.video:
      return self.request.video
    stem = self.request.path.stem
    self.note(
      f"the export names no video: the file's name {stem!r} is used; give "
      "--video if it has another"
    )
    return stem
