"""Reads prediction files: every form becomes one table, or a list of problems.

Detections: ActivityNet's JSON, which OpenTAD writes too ({"results": {video:
[{"label", "score", "segment"}]}}; EPIC-KITCHENS adds "verb", "noun",
"action"); ActionFormer's JSON ({"database": {video: [{"label_id", "scores",
"segment"}]}}) and its columns ("video-id", "t-start", "t-end", "label",
"score") as JSON or .npz; the THUMOS14 text (video start end class score); what
`clap predict --json` writes ({"videos": [{"video", "predictions"}]}).
"""

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from clap_jax.metrics import documents
from clap_jax.metrics.problems import ProblemLog
from clap_jax.metrics.tables import DetectionTable

_COLUMNS = ("video-id", "t-start", "t-end", "label", "score")
# Class numbers of the THUMOS14 detection task among the 101 of UCF101.
_THUMOS_CLASSES = {
  7: "BaseballPitch",
  9: "BasketballDunk",
  12: "Billiards",
  21: "CleanAndJerk",
  22: "CliffDiving",
  23: "CricketBowling",
  24: "CricketShot",
  26: "Diving",
  31: "FrisbeeCatch",
  33: "GolfSwing",
  36: "HammerThrow",
  40: "HighJump",
  45: "JavelinThrow",
  51: "LongJump",
  68: "PoleVault",
  79: "Shotput",
  85: "SoccerPenalty",
  92: "TennisSwing",
  93: "ThrowDiscus",
  97: "VolleyballSpiking",
}


class _Rows:
  """Columns under construction, with the location of every row."""

  def __init__(self, log: ProblemLog):
    self.log = log
    self.video: list[str] = []
    self.start_sec: list[float] = []
    self.end_sec: list[float] = []
    self.label: list[str] = []
    self.score: list[float] = []
    self.location: list[Any] = []  # of each row; made a text when needed

  def append(
    self, video: str, start: float, end: float, label: Any, score: float
  ) -> None:
    self.video.append(video)
    self.start_sec.append(start)
    self.end_sec.append(end)
    self.label.append(label if type(label) is str else str(label))
    self.score.append(score)

  def extend(
    self,
    video: str,
    columns: tuple[list, list, list, list],
    indices: Sequence[int],
  ) -> None:
    """Adds start, end, label and score of entries of one video."""
    start, end, label, value = columns
    self.video.extend([video] * len(start))
    self.start_sec.extend(start)
    self.end_sec.extend(end)
    self.label.extend(map(str, label))
    self.score.extend(value)
    self.location.extend((video, index) for index in indices)

  def finish(self, *, form: str) -> DetectionTable:
    """Checks the numbers of all rows at once and builds the table.

    Raises:
      MalformedFileError: anything in the file was wrong.
    """
    start, end = np.array(self.start_sec, float), np.array(self.end_sec, float)
    score = np.array(self.score, float)
    finite = np.isfinite(start) & np.isfinite(end) & np.isfinite(score)
    for row in np.flatnonzero(~finite):
      self.log.add(
        form.format(*self.location[row]),
        f"got segment [{start[row]}, {end[row]}], score {score[row]}; expected "
        "finite numbers",
      )
    for row in np.flatnonzero(finite & (end < start)):
      self.log.add(
        form.format(*self.location[row]),
        f"got a segment that ends before it starts: [{start[row]}, "
        f"{end[row]}]; expected start <= end in seconds",
      )
    self.log.raise_if_any()
    return DetectionTable.from_columns(
      video=self.video,
      start_sec=start,
      end_sec=end,
      label=self.label,
      score=score,
    )


def read_detections(
  path: pathlib.Path,
  *,
  label_field: str = "label",
  label_names: Mapping[str, str] | None = None,
) -> DetectionTable:
  """Reads scored segments in any of the forms above.

  Args:
    path: the file; the form is recognised by its content.
    label_field: which label of an EPIC-KITCHENS entry counts; files without it
      are read by their "label".
    label_names: class number -> name, for files that hold numbers.

  Raises:
    MalformedFileError: listing every problem.
    OSError: the file cannot be opened.
  """
  log = ProblemLog(path)
  if path.suffix == ".npz":
    table = _from_columns(_npz_columns(path, log), log=log)
  elif path.suffix == ".txt":
    table = _from_text(documents.read_text(path, log), log=log)
  else:
    with documents.paused_collection():
      content = documents.read_json(path, log)
      table = _from_json(content, log=log, label_field=label_field)
  names = label_names or {}
  return DetectionTable(
    **{
      **vars(table),
      "label_names": tuple(names.get(n, n) for n in table.label_names),
    }
  )


def _from_json(
  content: Any, *, log: ProblemLog, label_field: str
) -> DetectionTable:
  if isinstance(content, dict):
    if isinstance(content.get("results"), dict):
      return _from_videos(content["results"], "results", log, label_field)
    if isinstance(content.get("database"), dict):
      return _from_videos(content["database"], "database", log, label_field)
    if isinstance(content.get("videos"), list):
      videos = _videos_of_predict(content["videos"], log)
      return _from_videos(videos, "videos", log, label_field)
    if all(column in content for column in _COLUMNS):
      return _from_columns(content, log=log)
  log.add(
    "",
    f"got {documents.kind(content)}; expected an object with 'results' "
    "(ActivityNet, OpenTAD), 'database' (ActionFormer) or the columns "
    f"{', '.join(_COLUMNS)}",
  )
  log.raise_if_any()
  raise AssertionError("unreachable")


def _from_videos(
  videos: dict[str, Any], root: str, log: ProblemLog, label_field: str
) -> DetectionTable:
  rows = _Rows(log)
  for video, entries in videos.items():
    if not isinstance(entries, list):
      log.add(
        f"{root}[{video!r}]",
        f"got {documents.kind(entries)}; expected a list of predictions",
      )
      continue
    columns = _columns_of(entries, label_field)
    if columns is not None:
      rows.extend(video, columns, range(len(entries)))
      continue
    for index, entry in enumerate(entries):  # something is wrong: where?
      columns = _columns_of([entry], label_field)
      if columns is not None:
        rows.extend(video, columns, [index])
      else:
        _explain(entry, f"{root}[{video!r}][{index}]", log, label_field)
  return rows.finish(form=root + "[{0!r}][{1}]")


def _columns_of(
  entries: list[Any], label_field: str
) -> tuple[list, list, list, list] | None:
  """Start, end, label and score of entries; None if any is malformed."""
  try:
    segments = [entry["segment"] for entry in entries]
    scores = [
      entry["score"] if "score" in entry else entry["scores"]
      for entry in entries
    ]
    labels = [_label(entry, label_field) for entry in entries]
    start = [start for start, _ in segments]
    end = [end for _, end in segments]
  except (KeyError, TypeError, ValueError):
    return None
  numbers = {int, float}
  sound = (
    set(map(type, segments)) <= {list}
    and {*map(type, start), *map(type, end), *map(type, scores)} <= numbers
    and set(map(type, labels)) <= {str, int}
  )
  return (start, end, labels, scores) if sound else None


def _videos_of_predict(videos: list[Any], log: ProblemLog) -> dict[str, Any]:
  """Rewrites the document of `clap predict` in ActivityNet's form."""
  result: dict[str, Any] = {}
  for index, video in enumerate(videos):
    entries = video.get("predictions") if isinstance(video, dict) else None
    if not isinstance(entries, list) or "video" not in video:
      log.add(
        f"videos[{index}]",
        f"got {documents.kind(video)}; expected video and predictions",
      )
      continue
    result[str(video["video"])] = [
      {**entry, "segment": [entry.get("start_sec"), entry.get("end_sec")]}
      if isinstance(entry, dict)
      else entry
      for entry in entries
    ]
  return result


def _label(entry: dict[str, Any], field: str) -> Any:
  """The label of an entry; KeyError where it has none."""
  if field in entry:
    return entry[field]
  if field == "action" and "verb" in entry and "noun" in entry:
    return f"{entry['verb']},{entry['noun']}"
  return entry["label"] if "label" in entry else entry["label_id"]


def _explain(
  entry: Any, location: str, log: ProblemLog, label_field: str
) -> None:
  """Adds every reason why an entry cannot be read."""
  if not isinstance(entry, dict):
    log.add(
      location,
      f"got {documents.kind(entry)}; expected an object with label, score and "
      "segment",
    )
    return
  segment = entry.get("segment")
  if (
    not isinstance(segment, list)
    or len(segment) != 2
    or not all(type(value) in (int, float) for value in segment)
  ):
    got = segment if isinstance(segment, list) else documents.kind(segment)
    got = "nothing" if "segment" not in entry else got
    log.add(f"{location}.segment", f"got {got}; expected [start, end] in sec")
  elif not segment[0] <= segment[1] or math.inf in map(abs, segment):
    log.add(
      f"{location}.segment",
      f"got {segment}; expected finite start <= end in seconds",
    )
  score = entry.get("score", entry.get("scores"))
  if not documents.is_number(score):
    got = "nothing" if score is None else documents.kind(score)
    log.add(f"{location}.score", f"got {got}; expected a finite number")
  try:
    label = _label(entry, label_field)
  except KeyError:
    log.add(f"{location}.{label_field}", "got nothing; expected a class")
    return
  if type(label) not in (str, int):
    log.add(
      f"{location}.{label_field}",
      f"got {documents.kind(label)}; expected a class name or number",
    )


def _npz_columns(path: pathlib.Path, log: ProblemLog) -> dict[str, Any]:
  try:
    with np.load(path, allow_pickle=False) as archive:
      return {name: archive[name].tolist() for name in archive.files}
  except (ValueError, OSError, EOFError) as error:
    if isinstance(error, FileNotFoundError):
      raise
    log.add("", f"not an .npz of plain columns: {error}")
    log.raise_if_any()
    raise AssertionError("unreachable") from error


def _from_columns(
  content: dict[str, Any], *, log: ProblemLog
) -> DetectionTable:
  for name in _COLUMNS:
    if not isinstance(content.get(name), list):
      got = documents.kind(content[name]) if name in content else "nothing"
      log.add(name, f"got {got}; expected a list, one entry per prediction")
  log.raise_if_any()
  sizes = {name: len(content[name]) for name in _COLUMNS}
  if len(set(sizes.values())) > 1:
    log.add("", f"got columns of different lengths {sizes}; expected one each")
    log.raise_if_any()
  rows = _Rows(log)
  for row, values in enumerate(
    zip(*(content[name] for name in _COLUMNS), strict=True)
  ):
    video, start, end, label, score = values
    for name, value in (("t-start", start), ("t-end", end), ("score", score)):
      if type(value) not in (int, float):
        log.add(
          f"{name}[{row}]",
          f"got {documents.kind(value)}; expected a number",
        )
        break
    else:
      label = int(label) if isinstance(label, float) else label
      rows.append(str(video), start, end, label, score)
      rows.location.append((row,))
  return rows.finish(form="row {0}")


def _from_text(text: str, *, log: ProblemLog) -> DetectionTable:
  """Lines "video start end class score"; classes by THUMOS14 number or name."""
  rows = _Rows(log)
  for number, line in enumerate(text.splitlines(), start=1):
    fields = line.split()
    if not fields:
      continue
    values = [documents.to_number(f) for f in (*fields[1:3], *fields[4:5])]
    if len(fields) != 5 or None in values:
      log.add(
        f"line {number}",
        f"got {line.strip()[:60]!r}; expected: video start_sec end_sec class "
        "score",
      )
      continue
    start, end, score = values
    label = fields[3]
    if label.isdigit():
      label = _THUMOS_CLASSES.get(int(label), label)
    video = fields[0].removesuffix(".mpeg").removesuffix(".mp4")
    rows.append(video, start, end, label, score)
    rows.location.append((number,))
  return rows.finish(form="line {0}")
