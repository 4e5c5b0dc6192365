"""Reads annotation files of all datasets into one form.

A reader adds every span of its files with `AnnotationFile.add`; what cannot be
used is rejected with its place and stops nothing. The numbers of what the
files hold, usable or not, are kept per split, so that they can be compared
with the published ones.
"""

import dataclasses
import re

from clap_jax.storage import text_tables

MAX_TEXT_CHARACTERS = 2_000
# Each is kept for the manifest; more are a file of nothing but faults.
_MAX_REJECTED = 1 << 20
WHOLE_VIDEO_SEC = 1e9  # the end of a label without a segment; clipped later
DUPLICATE_SEC = 1e-3  # ends this near and the same label: one segment twice
SPLITS = {  # what annotation files call them
  "training": "train",
  "train": "train",
  "": "train",
  "validation": "validation",
  "val": "validation",
  "valid": "validation",
  "validate": "validation",
  "dev": "validation",
  "development": "validation",
  "testing": "test",
  "test": "test",
}
_SPLIT = re.compile(r"[a-z][a-z0-9_]{0,31}")


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
  """The annotations of one video.

  `ambiguous` spans are neither action nor background. The `expected_*` are
  what the dataset's authors state of the video, None where they do not.
  `counted` is its share of what AnnotationFile counts.
  """

  name: str
  subset: str
  where: str
  segments: list[Span] = dataclasses.field(default_factory=list)
  captions: list[Span] = dataclasses.field(default_factory=list)
  ambiguous: list[Span] = dataclasses.field(default_factory=list)
  expected_duration_sec: float | None = None
  expected_frames: int | None = None
  counted: dict[str, int] = dataclasses.field(default_factory=dict)


class SpanError(ValueError):
  """A span that cannot be used; the message is the reason."""


@dataclasses.dataclass
class AnnotationFile:
  """The videos of the files in their order, and what could not be used.

  `rejected` are spans, {"where", "video", "split", "reason"}, the split None
  where it is unknown; `excluded` are whole videos, {"id", "split", "reason"}.
  `class_names` fixes the order of the classes; None stands for all labels,
  sorted. `annotated` counts, per split, everything the files hold. `sources`
  has size and SHA-256 of each file.
  """

  entries: dict[str, Entry] = dataclasses.field(default_factory=dict)
  rejected: list[dict] = dataclasses.field(default_factory=list)
  excluded: list[dict] = dataclasses.field(default_factory=list)
  class_names: list[str] | None = None
  annotated: dict[str, dict[str, int]] = dataclasses.field(default_factory=dict)
  sources: list[dict] = dataclasses.field(default_factory=list)

  def reject(
    self, where: str, video: str, reason: str, *, split: str | None = None
  ) -> None:
    if len(self.rejected) >= _MAX_REJECTED:
      raise ValueError(
        f"{where}: {reason}; {_MAX_REJECTED} others are rejected before it, "
        "and no more are read: correct the annotations"
      )
    self.rejected.append(
      {
        "where": where,
        "video": str(video)[:200],
        "split": split,
        "reason": reason,
      }
    )

  def count(self, split: str, kind: str, number: int = 1) -> None:
    """Adds to `annotated`: videos, segments, captions, ambiguous, queries."""
    counts = self.annotated.setdefault(split, {})
    counts[kind] = counts.get(kind, 0) + number

  def count_of(self, entry: Entry, kind: str, number: int = 1) -> None:
    """Adds to `annotated` what moves with the video."""
    self.count(entry.subset, kind, number)
    entry.counted[kind] = entry.counted.get(kind, 0) + number

  def move(self, entry: Entry, subset: str) -> None:
    """Takes a video to another split, with its counts and rejected spans."""
    for kind, number in entry.counted.items():
      self.count(entry.subset, kind, -number)
      self.count(subset, kind, number)
    for note in self.rejected:
      if (note["video"], note["split"]) == (entry.name[:200], entry.subset):
        note["split"] = subset
    entry.subset = subset

  def entry(
    self, name: str, subset: str, where: str, *, key: str | None = None
  ) -> Entry:
    """The entry of a video, made and counted when it is new.

    `key` tells apart a video's entries in several splits; by default the name.

    Raises:
      ValueError: the key stands in another split as well.
    """
    key = name if key is None else key
    if key not in self.entries:
      self.entries[key] = Entry(name, subset, where)
      self.count_of(self.entries[key], "videos")
    entry = self.entries[key]
    if entry.subset != subset:
      raise ValueError(
        f"{where}: the video {name[:200]!r} is in {subset} here and in "
        f"{entry.subset} at {entry.where}: a video belongs to one split; "
        "correct the file."
      )
    return entry

  def merge(self, entry: Entry, other: Entry) -> None:
    """Adds the spans of the same video under another name, counted once."""
    self.count(other.subset, "videos", -1)
    for kind, number in other.counted.items():
      if kind != "videos":
        entry.counted[kind] = entry.counted.get(kind, 0) + number
    for kind in ("segments", "captions", "ambiguous"):
      spans = getattr(entry, kind)
      for span in getattr(other, kind):
        try:
          if kind == "segments":
            _check_duplicate(span, spans)
        except SpanError as error:
          self.reject(span.where, entry.name, str(error), split=entry.subset)
          continue
        spans.append(span)

  def exclude(self, key: str, reason: str) -> None:
    """Takes a video out of the dataset; it stays counted as annotated."""
    entry = self.entries.pop(key)
    self.excluded.append(
      {"id": entry.name, "split": entry.subset, "reason": reason}
    )

  def add(self, entry: Entry, kind: str, *, span: tuple, where: str) -> None:
    """Adds (start, end, text) to entry.<kind>, or rejects it.

    Either way it is counted. `kind` is segments, captions or ambiguous.
    """
    self.count_of(entry, kind)
    try:
      good = make_span(*span, where)
      if kind == "segments":
        _check_duplicate(good, entry.segments)
    except SpanError as error:
      self.reject(where, entry.name, str(error), split=entry.subset)
      return
    getattr(entry, kind).append(good)

  def labels(self) -> list[str]:
    """The class names in order."""
    if self.class_names is not None:
      return list(self.class_names)
    found = {s.text for e in self.entries.values() for s in e.segments}
    return sorted(found)


def _check_duplicate(span, known):
  for other in known:
    if (
      other.text == span.text
      and abs(other.start_sec - span.start_sec) < DUPLICATE_SEC
      and abs(other.end_sec - span.end_sec) < DUPLICATE_SEC
    ):
      raise SpanError(f"the same as {other.where}")


def _seconds(value, decimal_comma=False):
  try:
    return text_tables.seconds(value, decimal_comma=decimal_comma)
  except ValueError as error:
    raise SpanError(str(error)) from None


def pair(value: object) -> tuple:
  """(start, end) of a list of two; (None, None) for anything else."""
  is_pair = isinstance(value, (list, tuple)) and len(value) == 2
  return tuple(value) if is_pair else (None, None)


def number(value: object) -> float | None:
  """The finite number that a file states, None for anything else."""
  try:
    return _seconds(value)
  except SpanError:
    return None


def positive(value: object) -> float | None:
  """The number above 0 that a file states, None for anything else."""
  found = number(value)
  return found if found is not None and found > 0 else None


def make_span(start: object, end: object, text: object, where: str) -> Span:
  """Checks one span; times in seconds, as numbers, text or clock times.

  Raises:
    SpanError: for anything that is not a forward span with a text.
  """
  start_sec, end_sec = _seconds(start), _seconds(end)
  if end_sec <= start_sec:
    kind = "has no length" if end_sec == start_sec else "is reversed"
    raise SpanError(
      f"{kind}: ends at {end_sec} s, not after its start at {start_sec} s"
    )
  if isinstance(text, int) and not isinstance(text, bool):
    text = str(text)  # class numbers are names like others
  if not isinstance(text, str) or not text.strip():
    raise SpanError("no label or caption text")
  if len(text) > MAX_TEXT_CHARACTERS or "\0" in text:
    raise SpanError(
      f"text longer than {MAX_TEXT_CHARACTERS} characters or "
      "with a NUL character"
    )
  return Span(start_sec, end_sec, " ".join(text.split()), where)


def split_of(value: object) -> str:
  """The split that a subset's name means, in any case; train for none.

  Raises:
    SpanError: if it is none.
  """
  name = "" if value is None else str(value).strip().lower()
  name = SPLITS.get(name, name)
  if not _SPLIT.fullmatch(name):
    raise SpanError(
      f"unusable subset {name[:40]!r}; use train, selection, validation or test"
    )
  return name
