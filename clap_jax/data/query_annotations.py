"""Reads grounding queries from annotation files.

See annotations.given_file for the forms: captions by video (ActivityNet
Captions, TACoS, MMN's Charades-STA), JSON lines of queries (QVHighlights with
its saliency scores, CG-DETR's TACoS) and the text of Charades-STA, whose
durations are in a CSV. The ids are those under which `clap score` reads them.
"""

import pathlib
import re
from collections.abc import Iterable

import numpy as np

from clap_jax.annotations import activitynet, given_file
from clap_jax.data.queries import GroundingQuery, GroundingSplit
from clap_jax.storage import locations, text_tables

_DURATION_COLUMNS = {
  "id": ("video", "video_id", "name", "filename"),
  "length": ("duration", "duration_sec", "length_sec", "seconds"),
}
_CUT_CLIP = re.compile(r"_[0-9.]+_[0-9.]+$")


def read_sentences(path: locations.PathLike) -> tuple[str, ...]:
  """Reads the distinct sentences of a file, for a text tower."""
  file = _read(path)
  return tuple(
    dict.fromkeys(
      span.text for entry in file.entries.values() for span in entry.captions
    )
  )


def read_split(
  path: locations.PathLike, *, duration_files: Iterable[str] = ()
) -> GroundingSplit:
  """Reads one file of queries.

  Args:
    path: see the module for the forms.
    duration_files: CSV files with the columns id and length, in seconds, for
      annotations without durations.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: lists malformed entries with their locations.
  """
  file = _read(path)
  duration_sec = {
    activitynet.query_video(entry.name): entry.expected_duration_sec
    for entry in file.entries.values()
    if entry.expected_duration_sec is not None
  }
  for lengths in duration_files:
    duration_sec.update(read_durations(locations.at(lengths)))
  queries = tuple(_queries(file))
  videos = {query.video_id for query in queries}
  lacking = sorted(videos - set(duration_sec))
  if lacking:
    raise ValueError(
      f"{path}: {len(lacking)} videos have no duration, e.g. {lacking[:3]}; "
      "give CSV files with the columns id and length as data.queries.durations"
    )
  return GroundingSplit(
    queries, {video: duration_sec[video] for video in sorted(videos)}
  )


def _read(path: locations.PathLike) -> given_file.GivenFile:
  path = locations.at(path)
  if not path.is_file():
    raise FileNotFoundError(f"{path} is missing; give an annotation file.")
  file = given_file.read(path, needs_label=False)
  for entry in file.entries.values():
    for span in entry.captions:
      if not span.text:
        file.log.add(span.where, "got no sentence; expected one")
  if not any(entry.captions for entry in file.entries.values()):
    file.log.add("", "found no query; expected sentences with their moments")
  file.log.raise_if_any()
  return file


def _queries(file: given_file.GivenFile) -> Iterable[GroundingQuery]:
  """Returns the queries in the order of the file."""
  for query, spans in file.spans_of_queries().items():
    # A few published windows end before they start and cannot be matched.
    windows = tuple(
      (span.start_sec, span.end_sec)
      for _, span in spans
      if span.end_sec > span.start_sec
    )
    try:
      saliency = given_file.saliency(file.queries[query])
    except ValueError as error:
      file.log.add(f"query {query}", str(error))
      continue
    if windows:
      entry, first = spans[0]
      yield GroundingQuery(
        id=query,
        video_id=activitynet.query_video(entry.name),
        text=first.text,
        windows=windows,
        saliency=None if saliency is None else saliency.astype(np.float32),
      )
  file.log.raise_if_any()


def read_durations(path: locations.Location) -> dict[str, float]:
  """Reads seconds by video id from a table with columns id and length."""
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
  """Reads ids from a file, one per line, or from a list in the package.

  Raises:
    FileNotFoundError: neither exists.
  """
  path = locations.at(name)
  published = pathlib.Path(__file__).parent / "held_out"
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
  """Divides into (rest, held-out part) by video id or its prefix.

  A held-out id also covers the clips that were cut from that video, named
  "<id>_<start>_<end>" as in QVHighlights.
  """
  out = {
    video
    for video in split.duration_sec
    if {video, _CUT_CLIP.sub("", video)} & held_out
  }

  def part(wanted: bool) -> GroundingSplit:
    return GroundingSplit(
      tuple(q for q in split.queries if (q.video_id in out) == wanted),
      {v: s for v, s in split.duration_sec.items() if (v in out) == wanted},
    )

  return part(False), part(True)
