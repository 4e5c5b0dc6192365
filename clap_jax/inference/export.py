"""Exports predictions to files of other programs and to a page.

`document` is everywhere what `predict.predict` returns. Every file appears
completely or not at all.
"""

import collections
import csv
import dataclasses
import html
import io
import json
import os
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from clap_jax.report import csv_cells, player
from clap_jax.storage import output

FORMATS = ("activitynet", "qvhighlights", "csv", "srt", "vtt", "html")
# Control characters, line ends of Unicode and lone surrogates.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_CUE_CHARACTERS = str.maketrans({"{": "(", "}": ")", "\\": "/"})
_MAX_STEM_BYTES = 200
_CSV_COLUMNS = ("video", "start_sec", "end_sec", "score", "label", "query")


@dataclasses.dataclass(frozen=True)
class Exported:
  """The files that were written, and the reasons of those that were not."""

  files: tuple[pathlib.Path, ...]
  failed: tuple[dict, ...]  # {"file", "reason"}


def check(
  videos: Sequence[str | os.PathLike],
  directory: str | pathlib.Path,
  *,
  formats: tuple[str, ...] = FORMATS,
  overwrite: bool = False,
) -> None:
  """Checks before the work that `write` can write; makes the directory.

  Args:
    videos: paths of all videos that predictions may be of.
    directory: of the files.
    formats: see `write`.
    overwrite: see `write`.

  Raises:
    ValueError: an unknown format, with the choices, or a file that must not be
      written, such as a link.
    FileExistsError: files are there already and `overwrite` is off.
  """
  unknown = sorted(set(formats) - set(FORMATS))
  if unknown:
    raise ValueError(
      f"unknown formats {unknown}; choose from {', '.join(FORMATS)}."
    )
  directory = pathlib.Path(directory)
  directory.mkdir(parents=True, exist_ok=True)
  entries = [{"video": os.fspath(video)} for video in videos]
  paths = list(_plan({"videos": entries}, directory, formats))
  present = sorted(str(path) for path in paths if path.exists())
  if present and not overwrite:
    more = f" and {len(present) - 5} more" if present[5:] else ""
    raise FileExistsError(
      f"{', '.join(present[:5])}{more}: there already; pass --overwrite or "
      "another directory."
    )
  for path in paths:
    output.check_writable(path, folder=directory)


def write(
  document: Mapping[str, Any],
  directory: str | pathlib.Path,
  *,
  formats: tuple[str, ...] = FORMATS,
  overwrite: bool = False,
) -> Exported:
  """Writes the predictions in each of the formats.

  `predictions.activitynet.json`, `predictions.qvhighlights.jsonl` (queries
  only) and `predictions.csv` hold all videos; `<video>.srt`, `<video>.vtt` and
  `<video>.html`, the page that plays a moment at a click, one video each. A
  file that cannot be written is listed, the others are written.

  Raises:
    ValueError: see `check`.
    FileExistsError: see `check`; then none is written.
  """
  directory = pathlib.Path(directory)
  videos = [entry["video"] for entry in document["videos"]]
  check(videos, directory, formats=formats, overwrite=overwrite)
  written, failed = [], []
  for path, make in _plan(document, directory, formats).items():
    try:
      # UTF-8 has no lone surrogates, which names of files may hold.
      content = make().encode("utf-8", "backslashreplace")
      output.write_bytes(path, content, folder=directory, overwrite=overwrite)
      written.append(path)
    except (OSError, ValueError) as error:
      failed.append({"file": str(path), "reason": str(error)})
  return Exported(tuple(written), tuple(failed))


def _plan(
  document, directory: pathlib.Path, formats: tuple[str, ...]
) -> dict[pathlib.Path, Callable[[], str]]:
  """Returns the writer of each file."""
  return {
    directory / name: make
    for kind in formats
    for name, make in _WRITERS[kind](document)
  }


def activitynet(document: Mapping[str, Any]) -> dict:
  """{"results": {name: [{"label", "score", "segment"}]}}, best first.

  A video is named by its file's name without the suffix; videos that share one
  by their paths, since no name may stand for another video.
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
  """One row per video and query, with its windows, best first.

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
  """A table with one row per prediction.

  A spreadsheet would compute a cell that begins like a formula; texts that do
  get an apostrophe before them. Numbers stay numbers.
  """
  text = io.StringIO()
  table = csv.DictWriter(
    text, _CSV_COLUMNS, restval="", lineterminator="\n", extrasaction="ignore"
  )
  table.writeheader()
  for entry in document["videos"]:
    for found in _best_first(entry):
      row = {"video": entry["video"], **found}
      table.writerow(
        {key: csv_cells.harmless(value) for key, value in row.items()}
      )
  return text.getvalue()


def subtitles(entry: Mapping[str, Any], *, kind: str) -> str:
  """SubRip ("srt") or WebVTT ("vtt") cues of one video, by start time.

  Line breaks and "-->" in a text would end a cue, and players take "<b>" and
  "{\\an8}" for styles; they are escaped or replaced.
  """
  comma = "," if kind == "srt" else "."
  lines = [] if kind == "srt" else ["WEBVTT", ""]
  ordered = sorted(
    entry["predictions"],
    key=lambda found: (found["start_sec"], -found["score"]),
  )
  for number, found in enumerate(ordered, start=1):
    words = _cue_text(found.get("label") or found["query"], kind=kind)
    lines += [
      str(number),
      f"{_clock(found['start_sec'], comma)} --> "
      f"{_clock(found['end_sec'], comma)}",
      f"{words} ({found['score']:.2f})",
      "",
    ]
  return "\n".join(lines) + "\n"


def _cue_text(text: str, *, kind: str) -> str:
  """Text on one line that no player takes for a style or a time."""
  words = " ".join(_UNPRINTABLE.sub(" ", text).split())
  words = words.replace("-->", " ").translate(_CUE_CHARACTERS)
  if kind == "vtt":
    return html.escape(words, quote=False)
  return words.replace("<", "(").replace(">", ")")  # SubRip has no escapes


def _clock(seconds: float, separator: str) -> str:
  """hh:mm:ss and milliseconds."""
  milliseconds = round(1000 * seconds)
  whole, milliseconds = divmod(milliseconds, 1000)
  minutes, seconds = divmod(whole, 60)
  hours, minutes = divmod(minutes, 60)
  return f"{hours:02}:{minutes:02}:{seconds:02}{separator}{milliseconds:03}"


def _best_first(entry: Mapping[str, Any]) -> list[dict]:
  return sorted(entry["predictions"], key=lambda found: -found["score"])


def file_stems(document: Mapping[str, Any]) -> list[str]:
  """A file name for each video: its own, numbered where two share it.

  Control characters and bytes that are no text are replaced, long names cut.
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


_Plan = Iterator[tuple[str, Callable[[], str]]]


def _per_video(document, suffix: str, make: Callable[[dict], str]) -> _Plan:
  stems = file_stems(document)
  for stem, entry in zip(stems, document["videos"], strict=True):
    yield f"{stem}.{suffix}", lambda entry=entry: make(entry)


def _json_lines(rows: list[dict]) -> str:
  return "".join(json.dumps(row) + "\n" for row in rows)


_WRITERS: dict[str, Callable[[Mapping[str, Any]], _Plan]] = {
  "activitynet": lambda document: iter(
    [
      (
        "predictions.activitynet.json",
        lambda: json.dumps(activitynet(document), indent=1) + "\n",
      )
    ]
  ),
  "qvhighlights": lambda document: iter(
    [
      (
        "predictions.qvhighlights.jsonl",
        lambda: _json_lines(qvhighlights(document)),
      )
    ]
  ),
  "csv": lambda document: iter(
    [("predictions.csv", lambda: csv_text(document))]
  ),
  "srt": lambda document: _per_video(
    document, "srt", lambda entry: subtitles(entry, kind="srt")
  ),
  "vtt": lambda document: _per_video(
    document, "vtt", lambda entry: subtitles(entry, kind="vtt")
  ),
  "html": lambda document: _per_video(document, "html", player.render),
}
