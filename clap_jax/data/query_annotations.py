"""Reads published annotation files of language grounding.

* JSON by video, {"duration" or ("num_frames", "fps"), "timestamps",
  "sentences"}: ActivityNet-Captions, TACoS (whose times are frames), MMN's
  Charades-STA. Query ids are "<video>_<index>".
* JSON lines with "qid", "query", "vid", "duration", "relevant_windows":
  QVHighlights with its saliency scores, CG-DETR's TACoS.
* Text lines "VIDEO START END##SENTENCE": Charades-STA, whose durations stand in
  a CSV. Query ids are line numbers from 0.

The ids are those under which `clap score` knows the same files.
"""

import dataclasses
import importlib.resources
import math
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from clap_jax.data import own_annotations
from clap_jax.data.queries import (
  SALIENCY_CLIP_SEC,
  GroundingQuery,
  GroundingSplit,
  unique_texts,
)
from clap_jax.storage import locations, text_tables, untrusted

# Annotators of all clips of a video; the dataset has 75 clips and 3 of them.
_MAX_SALIENCIES = 1 << 22
_MAX_LISTED = 20
_MAX_PROBLEMS = 1000  # the rest of a file with more is not read
_DURATION_COLUMNS = {
  "id": ("video", "video_id", "name", "filename"),
  "length": ("duration", "duration_sec", "length_sec", "seconds"),
}
_CUT_CLIP = re.compile(r"_[0-9.]+_[0-9.]+$")


@dataclasses.dataclass(frozen=True)
class _Reading:
  """The queries read so far, and the problems found."""

  path: pathlib.Path
  queries: list[GroundingQuery] = dataclasses.field(default_factory=list)
  duration_sec: dict[str, float] = dataclasses.field(default_factory=dict)
  problems: list[str] = dataclasses.field(default_factory=list)

  def add(
    self, place: str, *, query_id, video_id, text, windows, saliency=None
  ) -> None:
    """Notes a query, or what is wrong with it."""
    try:
      spans = np.array(
        [[text_tables.seconds(time) for time in window] for window in windows]
      ).reshape(-1, 2)
    except (TypeError, ValueError):
      spans = np.full((1, 2), math.nan)
    if not isinstance(text, str) or not text.strip():
      self.problems.append(f"{place}: no sentence")
    elif not len(spans) or not np.isfinite(spans).all():
      self.problems.append(
        f"{place}: got {windows!r:.60}; expected windows [start, end]"
      )
    else:
      # A few published windows end before they start: nothing can hit them.
      kept = tuple((a, b) for a, b in spans.tolist() if b > a)
      if kept:
        query = GroundingQuery(
          id=str(query_id),
          video_id=str(video_id),
          text=" ".join(text.split()),
          windows=kept,
          saliency=saliency,
        )
        self.queries.append(query)


def read_sentences(path: str | pathlib.Path) -> tuple[str, ...]:
  """The different sentences of a file, what a text tower has to encode."""
  if own_annotations.is_table(path):
    spans = own_annotations.read_table(path).spans
  elif os.fspath(path).lower().endswith(".json"):
    spans = own_annotations.read_captions(path)
  else:
    spans = ()
  texts = [span.caption for span in spans if span.caption is not None]
  if texts:
    return tuple(dict.fromkeys(texts))
  return unique_texts(_read(path).queries)


def read_split(
  path: str | pathlib.Path, *, duration_files: Iterable[str] = ()
) -> GroundingSplit:
  """Reads one file of queries.

  Args:
    path: see the module for the forms.
    duration_files: CSV files with the columns id and length, in seconds, for
      annotations without durations.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: listing what is malformed, with its place.
  """
  reading = _read(path)
  for file in duration_files:
    lengths = read_durations(locations.at(file))
    reading.duration_sec.update(lengths)
  videos = {query.video_id for query in reading.queries}
  lacking = sorted(videos - set(reading.duration_sec))
  if lacking:
    raise ValueError(
      f"{path}: {len(lacking)} videos have no duration, e.g. {lacking[:3]}; "
      "give CSV files with the columns id and length as data.queries.durations"
    )
  return GroundingSplit(
    tuple(reading.queries),
    {video: reading.duration_sec[video] for video in sorted(videos)},
  )


def _read(path: str | pathlib.Path) -> _Reading:
  path = locations.at(path)
  if not path.is_file():
    raise FileNotFoundError(f"{path} is missing; give an annotation file.")
  reader = _READERS.get(path.suffix.lower())
  if reader is None:
    raise ValueError(
      f"{path}: unknown kind of annotations; expected {', '.join(_READERS)}"
    )
  reading = _Reading(path)
  reader(text_tables.read_text(path), reading)
  _check(reading)
  return reading


def _check(reading: _Reading) -> None:
  problems = list(reading.problems)
  ids = [query.id for query in reading.queries]
  if len(set(ids)) < len(ids):
    problems.append("query ids stand there twice; each must be unique")
  if not ids and not problems:
    problems.append("there is no query")
  if problems:
    more = len(problems) - _MAX_LISTED
    listed = "".join(f"\n  {problem}" for problem in problems[:_MAX_LISTED])
    rest = f"\n  and {more} more" if more > 0 else ""
    raise ValueError(f"{reading.path}:{listed}{rest}")


def _read_by_video(text: str, reading: _Reading) -> None:
  content = _parsed(text, "the file", reading)
  if not isinstance(content, Mapping):
    reading.problems.append("expected an object of videos")
    return
  for name, entry in content.items():
    video = name.removesuffix(".avi").removesuffix(".mp4")
    try:
      per_sec = float(entry.get("fps", 1.0))
      # TACoS gives frames, the others seconds.
      length = entry["num_frames"] if "fps" in entry else entry["duration"]
      reading.duration_sec[video] = text_tables.seconds(length) / per_sec
      rows = list(zip(entry["timestamps"], entry["sentences"], strict=True))
      spans = [
        [text_tables.seconds(end) / per_sec for end in span] for span, _ in rows
      ]
    except (
      AttributeError,
      KeyError,
      TypeError,
      ValueError,
      ZeroDivisionError,
    ) as error:
      reading.problems.append(
        f"[{name!r}]: {error!r}; expected duration (or num_frames and fps) and "
        "as many timestamps as sentences"
      )
      continue
    for index, (_, sentence) in enumerate(rows):
      reading.add(
        f"[{name!r}].timestamps[{index}]",
        query_id=f"{video}_{index}",
        video_id=video,
        text=sentence,
        windows=[spans[index]],
      )


def _read_lines(text: str, reading: _Reading) -> None:
  for number, line in enumerate(text_tables.split_lines(text), start=1):
    if len(reading.problems) >= _MAX_PROBLEMS:
      break
    if not line.strip():
      continue
    place = f"line {number}"
    record = _parsed(line, place, reading)
    if record is None:
      continue
    try:
      video, query = record["vid"], record["qid"]
      reading.duration_sec[str(video)] = text_tables.seconds(record["duration"])
      windows = record["relevant_windows"]
      saliency = _saliency(record)
    except (KeyError, TypeError, ValueError, IndexError) as error:
      reading.problems.append(
        f"{place}: {error!r}; expected qid, query, vid, duration and "
        "relevant_windows (a test file without them cannot be scored)"
      )
      continue
    reading.add(
      place,
      query_id=query,
      video_id=video,
      text=record.get("query"),
      windows=windows,
      saliency=saliency,
    )


def _saliency(record: Mapping[str, Any]) -> np.ndarray | None:
  """(clips, annotators): zero outside the relevant clips."""
  scores = record.get("saliency_scores")
  if not scores:
    return None
  num_clips = int(record["duration"] / SALIENCY_CLIP_SEC)
  if num_clips * len(scores[0]) > _MAX_SALIENCIES:
    raise ValueError(
      f"saliency of {num_clips} clips by {len(scores[0])} annotators; at most "
      f"{_MAX_SALIENCIES} numbers are read"
    )
  saliency = np.zeros((num_clips, len(scores[0])), np.float32)
  saliency[record["relevant_clip_ids"]] = scores
  return saliency


def _read_text(text: str, reading: _Reading) -> None:
  for number, line in enumerate(text_tables.split_lines(text)):
    if len(reading.problems) >= _MAX_PROBLEMS:
      break
    if not line.strip():
      continue
    place = f"line {number + 1}"
    fields, hashes, sentence = line.partition("##")
    words = fields.split()
    if len(words) != 3 or not hashes:
      reading.problems.append(
        f"{place}: got {line[:60]!r}; expected VIDEO START END##SENTENCE"
      )
      continue
    reading.add(
      place,
      query_id=number,
      video_id=words[0],
      text=sentence,
      windows=[words[1:]],
    )


_READERS: dict[str, Callable[[str, _Reading], None]] = {
  ".json": _read_by_video,
  ".jsonl": _read_lines,
  ".txt": _read_text,
}


def _parsed(text: str, place: str, reading: _Reading) -> Any:
  try:
    return untrusted.parse_json(text, name=place)
  except untrusted.UntrustedFileError as error:
    reading.problems.append(str(error))
    return None


def read_durations(path: pathlib.Path) -> dict[str, float]:
  """Video id -> seconds, of a table with the columns id and length."""
  if not path.is_file():
    raise FileNotFoundError(
      f"{path} is missing; give a CSV with the columns id and length."
    )
  table = text_tables.read_table(
    path, columns=_DURATION_COLUMNS, required=tuple(_DURATION_COLUMNS)
  )
  lengths = {}
  for row in table:
    try:
      lengths[row.cells["id"]] = text_tables.seconds(
        row.cells["length"], decimal_comma=table.decimal_comma
      )
    except ValueError as error:
      raise ValueError(
        f"{path}, line {row.line}: {error}; expected the columns id and "
        "length, in seconds"
      ) from None
  return lengths


def read_ids(name: str) -> frozenset[str]:
  """Ids of a file, one a line, or of a list that the package publishes.

  Raises:
    FileNotFoundError: it is neither.
  """
  path = locations.at(name)
  published = importlib.resources.files("clap_jax.data") / "held_out"
  if not path.is_file():
    names = sorted(p.name.removesuffix(".txt") for p in published.iterdir())
    if name not in names:
      raise FileNotFoundError(
        f"{name} is not a list of ids; published lists: {', '.join(names)}."
      )
    path = published / f"{name}.txt"
  lines = text_tables.read_lines(path)
  return frozenset(line for _, line in lines if not line.startswith("#"))


def divided(
  split: GroundingSplit, held_out: frozenset[str]
) -> tuple[GroundingSplit, GroundingSplit]:
  """(the rest, the held-out part), by video id or by what it begins with.

  A held-out id also covers the clips that were cut from that video, named
  "<id>_<start>_<end>" as in QVHighlights.
  """

  out = {
    video
    for video in split.duration_sec
    if {video, _CUT_CLIP.sub("", video)} & held_out
  }
  return tuple(
    GroundingSplit(
      tuple(q for q in split.queries if (q.video_id in out) == wanted),
      {v: s for v, s in split.duration_sec.items() if (v in out) == wanted},
    )
    for wanted in (False, True)
  )
