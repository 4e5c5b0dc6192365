"""Reads annotation files unmodified, for scoring and training.

It reads every form that own_files reads, and a folder of THUMOS14's text.
Unlike in builds, a file with unusable entries is an error, and nothing is
omitted or corrected: scores are computed on the files as published.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from clap_jax.annotations import annotation_file, own_files, thumos
from clap_jax.annotations.annotation_file import (
  WHOLE_VIDEO_SEC,
  AnnotationFile,
  Entry,
  Span,
  SpanError,
)
from clap_jax.annotations.problems import MalformedFileError, ProblemLog
from clap_jax.storage import locations

NO_LABEL = "proposal"  # of class-agnostic segments
_SUFFIXES = (*own_files.TABLE_SUFFIXES, ".json", ".jsonl", ".ndjson", ".txt")
# Of a video's saliency; a published one has 75 clips and 3 annotators.
_MAX_SALIENCIES = 1 << 22
SALIENCY_CLIP_SEC = 2.0  # what QVHighlights scores


class GivenFile(AnnotationFile):
  """Unmodified annotations; subsets keep their names, "" if none.

  Spans may be empty, reversed or repeated. A rejected span is a problem of the
  whole file.
  """

  is_strict: ClassVar[bool] = True

  def __init__(
    self,
    path: locations.Location,
    *,
    label_field: str = "label",
    needs_label: bool = True,
    **options,
  ):
    """Takes `label_field`, the label of EPIC-KITCHENS to use, and options.

    Without `needs_label` segments may lack a label and get `NO_LABEL`.
    """
    super().__init__(**options)
    self.log = ProblemLog(path)
    self._name = path.name
    self._label_field = label_field
    self._needs_label = needs_label
    fields = [f"{label_field}{end}" for end in ("_class", "_label", "")]
    self.label_columns = (*fields, "label_id", "type", "label-idx")

  def reject(
    self, where: str, video: str, reason: str, *, split: str | None = None
  ) -> None:
    del video, split
    self.log.add(where.removeprefix(f"{self._name} "), reason)

  def split_of(self, value: object) -> str:
    return "" if value is None else str(value)

  def label_of(self, item: Mapping[str, Any]) -> str | None:
    label = _label(item, self._label_field)
    for key in ("label_id", "type", "label-idx"):
      label = item.get(key) if label is None else label
    if label is None:
      return None if self._needs_label else NO_LABEL
    return str(label).removeprefix("id_")

  def checked(self, kind: str, start, end, text, where: str) -> Span:
    start_sec, end_sec = map(annotation_file.seconds, (start, end))
    if kind == "captions":  # a query may have only an id
      text = " ".join(str(text or "").split())
    elif text is None:
      raise SpanError(f"got no {self._label_field}; expected one")
    return Span(start_sec, end_sec, str(text), where)

  def spans_of_queries(self) -> dict[str, list[tuple[Entry, Span]]]:
    """Returns the windows of each query, in the order of the file.

    Raises:
      MalformedFileError: there is no query, or a caption has no id.
    """
    found: dict[str, list] = {query: [] for query in self.queries}
    for entry in self.entries.values():
      for span in entry.captions:
        if span.query in found:
          found[span.query].append((entry, span))
        else:
          self.log.add(span.where, "got no id; expected a query with its qid")
    if not found:
      self.log.add("", "got no query; expected sentences with their moments")
    self.log.raise_if_any()
    return found

  def marked_subsets(self) -> list[str]:
    return sorted({e.subset for e in self.entries.values()} - {""})


def _label(item, field):
  """Returns EPIC-KITCHENS's fields, else the label, else None."""
  if field == "action":
    verb, noun = _label(item, "verb"), _label(item, "noun")
    if any(key.startswith("verb") for key in item) and verb and noun:
      return f"{verb},{noun}"
  keys = (f"{field}_class", f"{field}_label", field, "label")
  found = (item.get(key) for key in keys)
  return next(
    (str(value).removeprefix("id_") for value in found if value is not None),
    None,
  )


def same_subset(first: str, second: str) -> bool:
  """Returns True for names equal up to case, and for known synonyms."""
  first, second = (
    annotation_file.SPLITS.get(name.lower(), name.lower()) if name else ""
    for name in (first, second)
  )
  return first == second


def read(path: locations.Location, **options) -> GivenFile:
  """Reads a file; options as of `GivenFile`.

  Raises:
    MalformedFileError: lists every problem.
    OSError: the file cannot be opened.
  """
  file = GivenFile(path, **options)
  suffix = path.suffix.lower()
  try:
    if path.is_dir():
      thumos.read_folder(path, file)
    elif suffix not in _SUFFIXES:
      if not path.exists():  # more to the point than its ending
        raise FileNotFoundError(f"{path}: No such file or directory")
      raise ValueError(
        f"unknown kind of annotations; expected {', '.join(_SUFFIXES)}"
      )
    elif suffix in own_files.TABLE_SUFFIXES:
      own_files.read_table(path, file)
    elif suffix == ".txt":
      own_files.read_sentences(path, file, subset="")
    elif suffix == ".json":
      own_files.read_json(path, file)
    else:
      own_files.read_json_lines(path, file)
  except MalformedFileError:
    raise
  except ValueError as error:  # it may name the file, and so does the log
    file.log.add("", str(error).removeprefix(f"{path}, "))
  file.log.raise_if_any()
  for entry in file.entries.values():
    _end_whole_labels(entry, file)
  file.log.raise_if_any()
  return file


def _end_whole_labels(entry: Entry, file: GivenFile) -> None:
  """Sets the end of whole-video labels to the length of the videos."""
  for index, span in enumerate(entry.segments):
    if span.end_sec == WHOLE_VIDEO_SEC:
      end_sec = entry.expected_duration_sec
      if end_sec is None:
        file.log.add(span.where, "expected a duration of the labelled video")
      else:
        entry.segments[index] = Span(0.0, end_sec, span.text, span.where)


def saliency(record: Mapping[str, Any]) -> np.ndarray | None:
  """Returns QVHighlights' scores (clips, annotators), 0 in other clips.

  Returns None if there are no scores.

  Raises:
    ValueError: the record's scores do not match its duration.
  """
  scores = record.get("saliency_scores")
  if not scores:
    return None
  try:
    num_clips = int(record["duration"] / SALIENCY_CLIP_SEC)
    if num_clips * len(scores[0]) > _MAX_SALIENCIES:
      raise ValueError(
        f"saliency of {num_clips} clips by {len(scores[0])} annotators; at "
        f"most {_MAX_SALIENCIES} numbers are read"
      )
    result = np.zeros((num_clips, len(scores[0])))
    result[record["relevant_clip_ids"]] = scores
  except (KeyError, TypeError, IndexError, OverflowError) as error:
    raise ValueError(
      f"{error!r}; expected duration, relevant_clip_ids and saliency_scores"
    ) from error
  if not np.isfinite(result).all():
    raise ValueError("saliency_scores that are not finite")
  return result
