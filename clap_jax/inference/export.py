"""Exports predictions to the formats of other programs and to HTML pages.

`document` always means the result of `predict.predict`. Files are written
atomically.
"""

import collections
import dataclasses
import functools
import json
import os
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from clap_jax.report import player, result_table
from clap_jax.storage import output

# Control characters, line ends of Unicode and lone surrogates.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_MAX_STEM_BYTES = 200
_CSV_COLUMNS = ("video", "start_sec", "end_sec", "score", "label", "query")


@dataclasses.dataclass(frozen=True)
class Exported:
  """The files that were written, and those that failed."""

  files: tuple[pathlib.Path, ...]
  failed: tuple[dict, ...]  # {"file", "reason"}


def check(
  videos: Sequence[str | os.PathLike],
  directory: str | pathlib.Path,
  *,
  overwrite: bool = False,
) -> None:
  """Makes the directory and checks that `write` can write its files.

  Args:
    videos: paths of all videos to be predicted.
    overwrite: whether existing files may be replaced.

  Raises:
    ValueError: if a file cannot be written, for example a link.
    FileExistsError: if files exist and `overwrite` is False.
  """
  directory = pathlib.Path(directory)
  directory.mkdir(parents=True, exist_ok=True)
  entries = [{"video": os.fspath(video)} for video in videos]
  paths = list(_plan({"videos": entries}, directory))
  present = sorted(str(path) for path in paths if path.exists())
  if present and not overwrite:
    more = f" and {len(present) - 5} more" if present[5:] else ""
    raise FileExistsError(
      f"{', '.join(present[:5])}{more} exist; pass --overwrite or another "
      "directory."
    )
  for path in paths:
    output.check_writable(path, folder=directory)


def write(
  document: Mapping[str, Any],
  directory: str | pathlib.Path,
  *,
  overwrite: bool = False,
) -> Exported:
  """Writes the predictions in all formats.

  `predictions.activitynet.json`, `predictions.qvhighlights.jsonl` (queries
  only) and `predictions.csv` contain all videos; `<video>.html` is a page that
  plays the moments of one video. A file that cannot be written is listed and
  skipped.

  Raises:
    ValueError: see `check`.
    FileExistsError: see `check`; no file is written then.
  """
  directory = pathlib.Path(directory)
  videos = [entry["video"] for entry in document["videos"]]
  check(videos, directory, overwrite=overwrite)
  written, failed = [], []
  for path, make in _plan(document, directory).items():
    try:
      # File names may have lone surrogates, which UTF-8 cannot encode.
      content = make().encode("utf-8", "backslashreplace")
      output.write_bytes(path, content, folder=directory, overwrite=overwrite)
      written.append(path)
    except (OSError, ValueError) as error:
      failed.append({"file": str(path), "reason": str(error)})
  return Exported(tuple(written), tuple(failed))


def _plan(
  document, directory: pathlib.Path
) -> dict[pathlib.Path, Callable[[], str]]:
  """Maps each file to a function that returns its text."""
  plan: dict[str, Callable[[], str]] = {
    "predictions.activitynet.json": lambda: (
      json.dumps(activitynet(document), indent=1) + "\n"
    ),
    "predictions.qvhighlights.jsonl": lambda: "".join(
      json.dumps(row) + "\n" for row in qvhighlights(document)
    ),
    "predictions.csv": lambda: csv_text(document),
  }
  stems = file_stems(document)
  for stem, entry in zip(stems, document["videos"], strict=True):
    plan[f"{stem}.html"] = functools.partial(player.render, entry)
  return {directory / name: make for name, make in plan.items()}


def activitynet(document: Mapping[str, Any]) -> dict:
  """Returns {"results": {name: [{"label", "score", "segment"}]}}, best first.

  A video's name is its file name without the suffix, or its path if two videos
  share the file name.
  """
  results = {
    name: [
      {
        "label": found.get("label") or found["query"],
        "score": found["score"],
        "segment": [found["start_sec"], found["end_sec"]],
      }
      for found in _best_first(entry)
    ]
    for name, entry in _identified(document)
  }
  return {"version": "VERSION 1.3", "external_data": {}, "results": results}


def qvhighlights(document: Mapping[str, Any]) -> list[dict]:
  """Returns one row per video and query, with its windows best first.

  Videos are named as in `activitynet`.
  """
  rows = []
  for name, entry in _identified(document):
    windows: dict[str, list] = {q: [] for q in entry.get("absence") or {}}
    for found in _best_first(entry):
      if "query" in found:
        windows.setdefault(found["query"], []).append(
          [found["start_sec"], found["end_sec"], found["score"]]
        )
    for query, kept in windows.items():
      rows.append(
        {
          "qid": len(rows),
          "query": query,
          "vid": name,
          "pred_relevant_windows": kept,
        }
      )
  return rows


def csv_text(document: Mapping[str, Any]) -> str:
  """Formats a table with one row per prediction."""
  rows = [
    {"video": entry["video"], **found}
    for entry in document["videos"]
    for found in _best_first(entry)
  ]
  return result_table.csv_text(rows, _CSV_COLUMNS)


def _best_first(entry: Mapping[str, Any]) -> list[dict]:
  return sorted(entry["predictions"], key=lambda found: -found["score"])


def file_stems(document: Mapping[str, Any]) -> list[str]:
  """Returns a file name for each video, numbered if two share it.

  Control characters and undecodable bytes are replaced, long names cut.
  """
  stems: list[str] = []
  for entry in document["videos"]:
    stem = _UNPRINTABLE.sub("_", pathlib.PurePath(entry["video"]).stem)
    stem = stem.encode()[:_MAX_STEM_BYTES].decode(errors="ignore") or "video"
    number, name = 1, stem
    while name in stems:
      number += 1
      name = f"{stem}-{number}"
    stems.append(name)
  return stems


def _identified(document: Mapping[str, Any]) -> Iterator[tuple[str, dict]]:
  stems = [pathlib.PurePath(e["video"]).stem for e in document["videos"]]
  counts = collections.Counter(stems)
  for stem, entry in zip(stems, document["videos"], strict=True):
    yield stem if counts[stem] == 1 else entry["video"], entry
