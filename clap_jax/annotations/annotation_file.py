"""Reads annotation files of all datasets into one form.

A reader adds every span of its files with `AnnotationFile.add`; unusable spans
are rejected with their location without stopping. All annotations, usable or
not, are counted per split, for comparison with published numbers.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from clap_jax.storage import text_tables

MAX_TEXT_CHARACTERS = 2_000
# Each is kept for the manifest; a file with more is entirely faulty.
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
  """A labelled or captioned span as stated in the file.

  It is not checked against the video; `end_sec` is WHOLE_VIDEO_SEC for the
  whole video. Captions with the same `query` id are windows of one query."""

  start_sec: float
  end_sec: float
  text: str
  where: str
  query: str = ""


@dataclasses.dataclass
class Entry:
  """Annotations of a video.

  `ambiguous` spans are neither action nor background. The `expected_*` are
  values stated by the dataset's authors or None, as are `fps` and
  `covered_sec`, the seconds that features of the video cover. `counted` is its
  share of what AnnotationFile counts.
  """

  name: str
  subset: str
  where: str
  segments: list[Span] = dataclasses.field(default_factory=list)
  captions: list[Span] = dataclasses.field(default_factory=list)
  ambiguous: list[Span] = dataclasses.field(default_factory=list)
  expected_duration_sec: float | None = None
  expected_frames: int | None = None
  fps: float | None = None
  covered_sec: float | None = None
  counted: dict[str, int] = dataclasses.field(default_factory=dict)


class SpanError(ValueError):
  """Raised for an unusable span; the message is the reason."""


@dataclasses.dataclass
class AnnotationFile:
  """Videos of annotation files in order, with rejected annotations.

  Entries go by the names that `name_of` makes of those in the files, and where
  `splits_share_videos` by <split>/<name>. `rejected` are spans, {"where",
  "video", "split", "reason"}, the split None where it is unknown; `excluded`
  are whole videos, {"id", "split", "reason"}. `class_names` fixes the order of
  the classes; None stands for all labels, sorted. `annotated` counts, per
  split, everything the files hold. `sources` has size and SHA-256 of each file.
  `label_ids` has the names that annotations state for each class number, and
  `queries` the record of each query id.
  """

  # Whether every annotation of the file must be usable; see GivenFile.
  is_strict: ClassVar[bool] = False

  entries: dict[str, Entry] = dataclasses.field(default_factory=dict)
  name_of: Callable[[str], str] = str
  splits_share_videos: bool = False
  rejected: list[dict] = dataclasses.field(default_factory=list)
  excluded: list[dict] = dataclasses.field(default_factory=list)
  class_names: list[str] | None = None
  annotated: dict[str, dict[str, int]] = dataclasses.field(default_factory=dict)
  sources: list[dict] = dataclasses.field(default_factory=list)
  label_ids: dict[Any, set[str]] = dataclasses.field(default_factory=dict)
  queries: dict[str, dict] = dataclasses.field(default_factory=dict)
  # Columns of a table, besides those of the usual names, that hold a label.
  label_columns: tuple[str, ...] = ()

  def reject(
    self, where: str, video: str, reason: str, *, split: str | None = None
  ) -> None:
    if len(self.rejected) >= _MAX_REJECTED:
      raise ValueError(
        f"{where}: {reason}; {_MAX_REJECTED} others were rejected before it, "
        "and reading stopped: correct the annotations"
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
    """Increments counts in `annotated`, such as videos or segments."""
    counts = self.annotated.setdefault(split, {})
    counts[kind] = counts.get(kind, 0) + number

  def count_of(self, entry: Entry, kind: str, number: int = 1) -> None:
    """Increments counts in `annotated` that move with the video."""
    self.count(entry.subset, kind, number)
    entry.counted[kind] = entry.counted.get(kind, 0) + number

  def move(self, entry: Entry, subset: str) -> None:
    """Moves a video to another split, with its counts and rejected spans."""
    for kind, number in entry.counted.items():
      self.count(entry.subset, kind, -number)
      self.count(subset, kind, number)
    for note in self.rejected:
      if (note["video"], note["split"]) == (entry.name[:200], entry.subset):
        note["split"] = subset
    entry.subset = subset

  def entry(self, name: str, subset: str, where: str) -> Entry:
    """Returns the entry of a video; creates and counts a new one.

    Raises:
      ValueError: the video is in another split as well.
    """
    name = self.name_of(name)
    key = f"{subset}/{name}" if self.splits_share_videos else name
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

  def same_entry(self, name: str, subset: str, where: str) -> Entry:
    """Returns `entry`, for a file that may repeat a video.

    Raises:
      SpanError: the video is in another split as well.
    """
    known = self.entries.get(self.name_of(name))
    if known and known.subset != subset:
      raise SpanError(
        f"subset {subset!r}, but {known.subset!r} at {known.where}"
      )
    return self.entry(name, subset, where)

  def note_query(
    self, query: object, where: str, record: dict | None = None
  ) -> None:
    """Records a query by its id."""
    if self.is_strict and str(query) in self.queries:
      self.reject(
        where, "", f"got the query id {query} again; expected each once"
      )
    self.queries[str(query)] = record or {}

  def merge(self, entry: Entry, other: Entry) -> None:
    """Merges the spans of a video under another name; counts it once."""
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
    """Excludes a video from the dataset; it still counts as annotated."""
    entry = self.entries.pop(key)
    self.excluded.append(
      {"id": entry.name, "split": entry.subset, "reason": reason}
    )

  def add(
    self,
    entry: Entry,
    kind: str,
    *,
    span: tuple,
    where: str,
    query: object = "",
  ) -> None:
    """Adds (start, end, text) to entry.<kind>, or rejects it.

    It is counted in both cases. `kind` is segments, captions or ambiguous. A
    SpanError in place of a time is the reason to reject the span.
    """
    self.count_of(entry, kind)
    try:
      start, end, text = span
      good = self.checked(kind, start, end, text, where)
      if kind == "segments" and not self.is_strict:
        _check_duplicate(good, entry.segments)
    except SpanError as error:
      self.reject(where, entry.name, str(error), split=entry.subset)
      return
    if query != "":
      good = dataclasses.replace(good, query=str(query))
    getattr(entry, kind).append(good)

  def checked(self, kind: str, start, end, text, where: str) -> Span:
    """Returns a validated span; raises a SpanError for an unusable one."""
    del kind
    return make_span(start, end, text, where)

  def split_of(self, value: object) -> str:
    """Returns the split of a subset's name; raises a SpanError."""
    return split_of(value)

  def label_of(self, item: Mapping[str, Any]) -> object:
    """Returns the label in an annotation's fields, or None."""
    label = next((item[k] for k in ("label", "label_id") if k in item), None)
    if type(label) is int:
      names = self.label_ids.get(label, ())
      if len(names) == 1:
        return next(iter(names))
      return None if self.class_names else str(label)
    return label

  def numbered_labels(self) -> dict[int, str]:
    """Returns class names by the annotations' "label_id".

    Raises:
      ValueError: a number is not an integer or has two classes, or a class has
        two numbers.
    """
    names = {}
    for number, labels in self.label_ids.items():
      if type(number) is not int or number < 0:
        raise ValueError(
          f"got the label_id {number!r:.60}; expected a whole number"
        )
      if len(labels) > 1:
        raise ValueError(
          f"got the labels {sorted(labels)} of label_id {number}; expected one"
        )
      names[number] = next(iter(labels))
    if len(set(names.values())) < len(names):
      raise ValueError("got two label_ids of one label; expected one")
    return names

  def labels(self) -> list[str]:
    """Returns the class names in order."""
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


def seconds(value: object) -> float:
  """Calls `text_tables.seconds`; raises a SpanError given as a time."""
  if isinstance(value, SpanError):
    raise value
  try:
    return text_tables.seconds(value)
  except ValueError as error:
    raise SpanError(str(error)) from None


def pair(value: Any) -> tuple:
  """Returns (start, end) of a list of two, else (None, None)."""
  is_pair = isinstance(value, (list, tuple)) and len(value) == 2
  return tuple(value) if is_pair else (None, None)


def number(value: object) -> float | None:
  """Returns a value that is a finite number, else None."""
  try:
    return seconds(value)
  except SpanError:
    return None


def positive(value: object) -> float | None:
  """Returns a value that is a positive number, else None."""
  found = number(value)
  return found if found is not None and found > 0 else None


def make_span(start: object, end: object, text: object, where: str) -> Span:
  """Validates a span; times are seconds, as numbers, text or clock times.

  Raises:
    SpanError: it is not a forward span with a text.
  """
  start_sec, end_sec = seconds(start), seconds(end)
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
  """Returns the split of a subset's name, in any case; train for none.

  Raises:
    SpanError: the name is unknown.
  """
  name = "" if value is None else str(value).strip().lower()
  name = SPLITS.get(name, name)
  if not _SPLIT.fullmatch(name):
    raise SpanError(
      f"unusable subset {name[:40]!r}; use train, selection, validation or test"
    )
  return name
