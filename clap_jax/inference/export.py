"""Predictions in forms that other programs read, and a page that plays them.

`document` is everywhere what `predict.predict` returns. Every file is replaced
at once or not at all.
"""

import collections
import csv
import io
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from clap_jax.report import files, player

FORMATS = ("activitynet", "qvhighlights", "csv", "srt", "vtt", "html")
_CSV_COLUMNS = ("video", "start_sec", "end_sec", "score", "label", "query")


def write(
  document: Mapping[str, Any],
  directory: str | pathlib.Path,
  *,
  formats: tuple[str, ...] = FORMATS,
  overwrite: bool = False,
) -> list[pathlib.Path]:
  """Writes the predictions in each of the formats; returns the files.

  `predictions.activitynet.json`, `predictions.qvhighlights.jsonl` (queries
  only) and `predictions.csv` hold all videos; `<video>.srt`, `<video>.vtt` and
  `<video>.html`, the page that plays a moment at a click, one video each.

  Raises:
    ValueError: an unknown format, with the choices.
    FileExistsError: a file is there already and `overwrite` is off; then none
      is written.
  """
  unknown = sorted(set(formats) - set(FORMATS))
  if unknown:
    raise ValueError(
      f"unknown formats {unknown}; choose from {', '.join(FORMATS)}."
    )
  directory = pathlib.Path(directory)
  directory.mkdir(parents=True, exist_ok=True)
  plan = {
    directory / name: make
    for kind in formats
    for name, make in _WRITERS[kind](document)
  }
  present = sorted(str(path) for path in plan if path.exists())
  if present and not overwrite:
    raise FileExistsError(
      f"{', '.join(present)}: there already; pass --overwrite or another "
      "directory."
    )
  for path, make in plan.items():
    files.write_text(path, make())
  return list(plan)


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
  """A table with one row per prediction."""
  text = io.StringIO()
  table = csv.DictWriter(
    text, _CSV_COLUMNS, restval="", lineterminator="\n", extrasaction="ignore"
  )
  table.writeheader()
  for entry in document["videos"]:
    for found in _best_first(entry):
      table.writerow({"video": entry["video"], **found})
  return text.getvalue()


def subtitles(entry: Mapping[str, Any], *, kind: str) -> str:
  """SubRip ("srt") or WebVTT ("vtt") cues of one video, by start time.

  Line breaks and "-->" in a text would end a cue; they become spaces.
  """
  comma = "," if kind == "srt" else "."
  lines = [] if kind == "srt" else ["WEBVTT", ""]
  ordered = sorted(
    entry["predictions"],
    key=lambda found: (found["start_sec"], -found["score"]),
  )
  for number, found in enumerate(ordered, start=1):
    words = " ".join((found.get("label") or found["query"]).split())
    words = words.replace("-->", " ").replace("<", "(").replace(">", ")")
    lines += [
      str(number),
      f"{_clock(found['start_sec'], comma)} --> "
      f"{_clock(found['end_sec'], comma)}",
      f"{words} ({found['score']:.2f})",
      "",
    ]
  return "\n".join(lines) + "\n"


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
  """A file name for each video: its own, numbered where two share it."""
  stems: list[str] = []
  for entry in document["videos"]:
    stem = pathlib.PurePath(entry["video"]).stem or "video"
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
