"""Reads exports of BORIS: tabular and aggregated events."""

import re

from clap_jax.storage import text_tables
from tfds_builders.tool_exports.export import MAX_BYTES, Export

_COLUMNS = {
  "behavior": ("behaviour",),
  "start": (),
  "stop": (),
  "time": ("time_relative", "event_time"),
  "status": (),
  "behavior type": ("behaviour type",),
  "media file": ("media file name", "media file path"),
  "source": (),
  "subject": (),
  "modifiers": ("modifier",),
  "observation id": (),
  "total length": ("media duration",),
}
_PLAYER = re.compile(r"^player\s*#?\s*\d+\s*:\s*", re.IGNORECASE)
_MAX_PREAMBLE_ROWS = 100
_NONE = ("", "NA", "N/A", "nan")


def read(export: Export) -> None:
  """Reads either form, which the columns determine.

  Raises:
    ValueError: the file has no header of BORIS.
  """
  request = export.request
  text = text_tables.read_text(
    request.path, encoding=request.encoding, max_bytes=MAX_BYTES
  )
  num_lines, media = _preamble(text, request.path)
  rest = "\n".join(text_tables.split_lines(text)[num_lines:])
  table = text_tables.parse_table(
    rest, name=request.path, columns=_COLUMNS, required=("behavior",)
  )
  is_aggregated = {"start", "stop"} <= table.columns
  is_tabular = "time" in table.columns and (
    {"status", "behavior type"} & table.columns
  )
  if not (is_aggregated or is_tabular):
    raise text_tables.TableError(
      f"{request.path} has the header {list(table.header)}; expected BORIS's "
      "aggregated events (Behavior, Start (s), Stop (s)) or tabular events "
      "(Behavior, Time, Status or Behavior type)"
    )
  reader = _read_aggregated if is_aggregated else _read_events
  reader(export, table, num_lines, media)


def _preamble(text, path) -> tuple[int, str | None]:
  """Returns (number of lines before the header, media file named there)."""
  media = None
  lines = text_tables.split_lines(text)
  for number, line in enumerate(lines[:_MAX_PREAMBLE_ROWS]):
    folded = line.casefold()
    if re.search(r"\bbehaviou?r\b", folded) and re.search(
      r"\b(time|start)\b", folded
    ):
      return number, media
    cells = [cell.strip(' "') for cell in re.split("[\t,;]", line)]
    if folded.lstrip(' "').startswith(("media file", "player #")):
      media = next((cell for cell in cells[1:] if "." in cell), media)
  raise text_tables.TableError(
    f"{path}: no header with Behavior and Time or Start (s) in the first "
    f"{_MAX_PREAMBLE_ROWS} lines; expected an export of BORIS's events"
  )


def _video(row, media) -> str | None:
  given = [row.cells.get(key, "") for key in ("media file", "source")]
  name = next((name for name in given if name not in _NONE), media or "")
  return _PLAYER.sub("", name) or row.cells.get("observation id") or None


def _common(export, table, num_lines, media):
  """Yields (row, where, video, behavior) of the rows that have a video."""
  for row in table:
    where = f"line {row.line + num_lines}"
    video = _video(row, media)
    behavior = row.cells["behavior"]
    if video and ";" in video:
      export.reject(
        None,
        f"several media files in one observation: {video[:80]!r}; export each "
        "alone",
        where=where,
      )
    else:
      yield row, where, video, behavior


def _read_aggregated(export, table, num_lines, media):
  for row, where, video, behavior in _common(export, table, num_lines, media):
    start, stop = row.cells["start"], row.cells["stop"]
    is_point = row.cells.get("behavior type", "").upper() == "POINT"
    if is_point or start in _NONE or stop in _NONE or start == stop:
      export.reject(
        video, f"{behavior!r} is a point in time, without an end", where=where
      )
      continue
    try:
      times = [_seconds(table, cell) for cell in (start, stop)]
    except ValueError as error:
      export.reject(video, str(error), where=where)
      continue
    export.add(video, *times, behavior, where=where)
    export.length(video, row.cells.get("total length"))


def _read_events(export, table, num_lines, media):
  """Pairs START with the next STOP of the same subject and behavior."""
  running: dict[tuple, tuple[float, str]] = {}
  for row, where, video, behavior in _common(export, table, num_lines, media):
    cells = row.cells
    kind = (cells.get("status") or cells.get("behavior type", "")).upper()
    key = (
      cells.get("observation id"),
      video,
      cells.get("subject"),
      behavior,
    )
    try:
      time_sec = _seconds(table, cells["time"])
    except ValueError as error:
      export.reject(video, str(error), where=where)
      continue
    if kind.endswith("START") and key not in running:
      running[key] = (time_sec, where)
    elif kind.endswith("STOP") and key in running:
      start_sec, place = running.pop(key)
      export.add(
        video, start_sec, time_sec, behavior, where=f"{place} to {where}"
      )
      export.length(video, cells.get("total length"))
    else:
      reason = {
        "POINT": f"{behavior!r} is a point in time, without an end",
        "START": f"{behavior!r} starts again before it stops",
        "STOP": f"{behavior!r} stops without a start",
      }.get(kind, f"the status is {kind[:40]!r}; expected START, STOP or POINT")
      export.reject(video, reason, where=where)
  for (_, video, _, behavior), (_, where) in running.items():
    export.reject(video, f"{behavior!r} starts and never stops", where=where)


def _seconds(table, cell):
  return text_tables.seconds(cell, decimal_comma=table.decimal_comma)
