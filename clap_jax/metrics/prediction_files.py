"""Reads prediction files of all formats into one table, or lists problems.

Formats: ActivityNet's and OpenTAD's JSON ({"results": {video: [{"label",
"score", "segment"}]}}; EPIC-KITCHENS adds "verb", "noun", "action"; Ego4D
writes "detect_results"), with or without the outer object; ActionFormer's JSON
({"database": {video: [{"label_id", "scores", "segment"}]}}) and its columns
("video-id", "t-start", "t-end", "label", "score") as JSON, .npz or CSV; a list
or JSON lines of entries that name their video; the THUMOS14 text (video start
end class score); the output of `clap predict --json`. `prediction_entries`
lists other accepted field names.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from clap_jax.annotations.problems import MalformedFileError, ProblemLog
from clap_jax.metrics import documents
from clap_jax.metrics import prediction_entries as entries_lib
from clap_jax.metrics.tables import DetectionTable
from clap_jax.storage import arrays, locations, text_tables

_COLUMNS = ("video-id", "t-start", "t-end", "label", "score")
_ROOTS = ("results", "detect_results", "database", "videos", "predictions")
# Class numbers of the THUMOS14 detection task among the 101 of UCF101.
THUMOS_CLASSES = {
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
    self.location: list[Any] = []  # of each row; formatted when needed

  def extend(
    self,
    video: str,
    columns: tuple[list, list, list, list],
    indices: Sequence[int],
  ) -> None:
    """Adds columns of start, end, label and score for one video."""
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
      MalformedFileError: the file has problems.
    """
    start, end, score = map(_floats, (self.start_sec, self.end_sec, self.score))
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
  path: locations.Location,
  *,
  label_field: str = "label",
  label_names: Mapping[str, str] | None = None,
  needs_label: bool = True,
) -> DetectionTable:
  """Reads scored segments in any of the formats above.

  Args:
    path: the file, whose content decides the format.
    label_field: label of an EPIC-KITCHENS entry to use; "label" if the file
      lacks it.
    label_names: class number -> name, for files with class numbers.
    needs_label: False for proposals, which may lack a class.

  Raises:
    MalformedFileError: the file has problems.
    OSError: the file cannot be opened.
  """
  reader = _Reader(ProblemLog(path), label_field, needs_label)
  if path.suffix == ".npz":
    table = reader.columns(_npz_columns(path, reader.log))
  elif path.suffix == ".txt":
    table = reader.text(documents.read_text(path, reader.log))
  elif path.suffix.lower() in (".csv", ".tsv"):
    table = reader.csv(documents.read_text(path, reader.log))
  else:
    with documents.paused_collection():
      content, lines = documents.read_json_or_lines(path, reader.log)
      if lines is not None:
        table = reader.entries(lines)
      else:
        table = reader.document(content)
  names = label_names or {}
  return DetectionTable(
    **{
      **vars(table),
      "label_names": tuple(names.get(n, n) for n in table.label_names),
    }
  )


class _Reader:
  """Reads one file and logs its problems."""

  def __init__(self, log: ProblemLog, label_field: str, needs_label: bool):
    self.log = log
    self._label_field = label_field
    self._needs_label = needs_label

  def document(self, content: Any) -> DetectionTable:
    """Reads one JSON document."""
    if content and isinstance(content, list):
      return self.entries((f"[{i}]", entry) for i, entry in enumerate(content))
    got = documents.kind(content)
    content = content if isinstance(content, dict) else {}
    roots = [r for r in _ROOTS if isinstance(content.get(r), dict | list)]
    root = roots[0] if roots else ""
    videos = content[root] if roots else content
    if not roots and all(column in content for column in _COLUMNS):
      return self.columns(content)
    if isinstance(videos, list):
      return self.entries((f"{root}[{i}]", e) for i, e in enumerate(videos))
    if roots or any(map(entries_lib.holds_entries, videos.values())):
      return self._videos(videos, root)
    self.log.fail(
      "",
      f"got {got}; expected an object with 'results' "
      "(ActivityNet, OpenTAD), 'database' (ActionFormer), the columns "
      f"{', '.join(_COLUMNS)}, or lists of predictions by video",
    )

  def _videos(self, videos: dict[str, Any], root: str) -> DetectionTable:
    rows = _Rows(self.log)
    for video, value in videos.items():
      entries = entries_lib.nested_entries(value)
      if entries is None:
        self.log.add(
          f"{root}[{video!r}]",
          f"got {documents.kind(value)}; expected a list of predictions",
        )
        continue
      columns = _columns_of(entries, self._label_field)
      if columns is not None:
        rows.extend(video, columns, range(len(entries)))
        continue
      for index, entry in enumerate(entries):  # other field names, or invalid
        columns = self._columns_of_one(entry, f"{root}[{video!r}][{index}]")
        if columns is not None:
          rows.extend(video, columns, [index])
    return rows.finish(form=root.replace("{", "{{") + "[{0!r}][{1}]")

  def _columns_of_one(self, entry: Any, location: str):
    """Returns the columns of one entry, or logs its problems."""
    plain = entries_lib.plain(
      entry, label_field=self._label_field, needs_label=self._needs_label
    )
    columns = _columns_of([plain], "label")
    if columns is None:
      entries_lib.explain(plain, location, self.log)
    return columns

  def entries(self, items: Iterable[tuple[str, Any]]) -> DetectionTable:
    """Reads entries that name their video, or objects of a video's entries."""
    rows = _Rows(self.log)
    for location, item in items:
      video = entries_lib.video_of(item) if isinstance(item, dict) else None
      if video is None:
        got = documents.kind(item)
        self.log.add(location, f"got {got}; expected an entry with its video")
        continue
      nested = entries_lib.nested_entries(item)
      many = nested is not None
      for index, entry in enumerate(nested if many else [item]):
        where = f"{location}[{index}]" if many else location
        columns = self._columns_of_one(entry, where)
        if columns is not None:
          rows.extend(video, columns, [index])
          rows.location[-1] = (where,)
    return rows.finish(form="{0}")

  def columns(self, content: dict[str, Any]) -> DetectionTable:
    """Reads parallel lists with one entry per prediction."""
    log = self.log
    needed = [n for n in _COLUMNS if n != "label" or self._needs_label]
    for name in needed:
      if not isinstance(content.get(name), list):
        got = documents.kind(content[name]) if name in content else "nothing"
        log.add(name, f"got {got}; expected a list, one entry per prediction")
    log.raise_if_any()
    sizes = {name: len(content[name]) for name in needed}
    if len(set(sizes.values())) > 1:
      log.fail("", f"got columns of lengths {sizes}; expected equal lengths")
    rows = zip(*(content[name] for name in needed), strict=True)
    return self.entries(
      (f"row {row}", dict(zip(needed, values, strict=True)))
      for row, values in enumerate(rows)
    )

  def csv(self, text: str) -> DetectionTable:
    """Reads a table with a header of field names."""
    table = self._table(text)
    if not table.columns:
      self.log.fail(
        "",
        f"got the header {str(list(table.header))[:100]}; expected columns "
        "such as video, start, end, label, score",
      )
    return self.entries(
      (
        f"line {row.line}",
        {
          key: _value_of(key, value, decimal_comma=table.decimal_comma)
          for key, value in row.cells.items()
          if key and value
        },
      )
      for row in table
    )

  def _table(self, text: str) -> text_tables.Table:
    known: dict[str, tuple] = {}
    for name in (self._label_field, "verb", "noun", *entries_lib.COLUMNS):
      folded = {text_tables.fold(other) for other in known}
      if text_tables.fold(name) not in folded:
        known[name] = ()
    try:
      return text_tables.parse_table(text, name=self.log.path, columns=known)
    except text_tables.TableError as error:
      raise MalformedFileError(self.log.path, [str(error)]) from error

  def text(self, text: str) -> DetectionTable:
    """Reads lines "video start end class score" (class number or name)."""
    rows = _Rows(self.log)
    for number, line in enumerate(text_tables.split_lines(text), start=1):
      fields = line.split()
      if not fields:
        continue
      values = [documents.to_number(f) for f in (*fields[1:3], *fields[4:5])]
      if len(fields) != 5 or None in values:
        self.log.add(
          f"line {number}",
          f"got {line.strip()[:60]!r}; expected: video start_sec end_sec class "
          "score",
        )
        continue
      start, end, score = values
      label = fields[3]
      if label.isdigit():
        label = THUMOS_CLASSES.get(int(label), label)
      video = fields[0].removesuffix(".mpeg").removesuffix(".mp4")
      rows.extend(video, ([start], [end], [label], [score]), [number])
    return rows.finish(form="line {1}")


def _columns_of(
  entries: list[Any], label_field: str
) -> tuple[list, list, list, list] | None:
  """Returns start, end, label and score columns; None if not all are plain."""
  try:
    segments = [entry["segment"] for entry in entries]
    scores = [entry["score"] for entry in entries]
    labels = [
      entries_lib.label_of(entry, label_field)
      if label_field != "label"
      else entry["label"]
      for entry in entries
    ]
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


def _floats(values: Sequence[float]) -> np.ndarray:
  try:
    return np.array(values, float)
  except OverflowError:  # an integer of hundreds of digits
    huge = 1 << 1000
    return np.array([v if abs(v) < huge else np.inf for v in values], float)


def _value_of(key: str, text: str, *, decimal_comma: bool) -> float | str:
  """Converts a cell to a number or a time in seconds if possible."""
  if key in entries_lib.VIDEO_FIELDS:
    return text
  try:
    return float(text.replace(",", ".") if decimal_comma else text)
  except ValueError:
    pass
  is_time = key in entries_lib.TIME_FIELDS
  seconds = documents.to_seconds(text) if is_time else None
  return text if seconds is None else seconds


def _npz_columns(path: locations.Location, log: ProblemLog) -> dict[str, Any]:
  try:
    with arrays.open_npz(path) as archive:
      return {name: archive[name].tolist() for name in archive}
  except FileNotFoundError:
    raise
  except Exception as error:  # damaged archives raise many types
    log.fail("", f"not an .npz of plain columns: {error}")
