"""Reads tables of labelled or captioned segments."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from clap_jax.storage import text_tables
from clap_jax.storage.locations import PathLike

# Columns and their synonyms.
COLUMNS: dict[str, tuple[str, ...]] = {
  "video": (
    "file",
    "filename",
    "video_name",
    "video_id",
    "video_file",
    "video_path",
    "youtube_id",
    "vid",
    "path",
  ),
  "start": (
    "begin",
    "start_sec",
    "start_time",
    "start_seconds",
    "start_s",
    "start_timestamp",
    "begin_time",
    "time_start",
    "t_start",
    "t_init",
    "onset",
    "from",
  ),
  "end": (
    "stop",
    "finish",
    "end_sec",
    "end_time",
    "end_seconds",
    "end_s",
    "end_timestamp",
    "stop_sec",
    "stop_time",
    "stop_timestamp",
    "time_end",
    "t_end",
    "offset",
    "to",
  ),
  "label": (
    "class",
    "action",
    "category",
    "activity",
    "behavior",
    "behaviour",
    "class_name",
    "label_name",
  ),
  "caption": ("text", "sentence", "description", "narration", "query"),
  "subset": ("split", "set", "partition"),
  "start_ms": ("begin_ms", "start_time_ms", "start_millis"),
  "end_ms": ("stop_ms", "end_time_ms", "end_millis"),
  "start_frame": ("begin_frame", "start_frames", "frame_start"),
  "end_frame": ("stop_frame", "end_frames", "frame_end"),
}
_MS_PER_SEC = 1000.0


_NAMES = {
  text_tables.fold(name): key
  for key, names in COLUMNS.items()
  for name in (key, *names)
}


def named(
  item: Mapping[str, Any], *, keys: Collection[str] = tuple(COLUMNS)
) -> dict[str, Any]:
  """Returns the fields of an object by column names of `keys`."""
  row: dict[str, Any] = {}
  for key, value in item.items():
    name = _NAMES.get(text_tables.fold(key))
    row.setdefault(name if name and name in keys else key, value)
  return row


@dataclasses.dataclass(frozen=True)
class AnnotationTable:
  """A table with a video and a span per row."""

  table: text_tables.Table
  in_milliseconds: bool

  def times(self, row: text_tables.Row) -> tuple[float, float]:
    """Returns (start, end) of a row in seconds.

    Raises:
      ValueError: one of them is not a time.
    """
    end, unit = ("_ms", _MS_PER_SEC) if self.in_milliseconds else ("", 1.0)
    start_sec, end_sec = (
      text_tables.seconds(row.cells[key], decimal_comma=self.decimal_comma)
      / unit
      for key in (f"start{end}", f"end{end}")
    )
    return start_sec, end_sec

  @property
  def decimal_comma(self) -> bool:
    return self.table.decimal_comma


def read(
  path: PathLike,
  *,
  needs: tuple[str, ...] = ("label", "caption"),
  more: tuple[str, ...] = (),
  encoding: str | None = None,
) -> AnnotationTable:
  """Reads a table of `COLUMNS`; ignores others.

  Args:
    needs: columns of which one is required in addition to video, start and end.
    more: other columns, any of which can replace `needs`.
    encoding: see `text_tables.read_text`.

  Raises:
    UntrustedFileError: it is not a text file.
    TableError: a column is missing, doubled, or in frames.
    OSError: the file cannot be opened.
  """
  columns = dict.fromkeys(more, ()) | COLUMNS
  table = text_tables.read_table(path, columns=columns, encoding=encoding)
  have = table.columns
  in_milliseconds = not {"start", "end"} <= have and (
    {"start_ms", "end_ms"} <= have
  )
  if not {"start", "end"} <= have and {"start_frame", "end_frame"} & have:
    raise text_tables.TableError(
      f"{path} has the header {list(table.header)}: its times are frames; "
      "divide them by the frames per second of the videos and name the "
      "columns start and end"
    )
  times = ("start_ms", "end_ms") if in_milliseconds else ("start", "end")
  missing = [column for column in ("video", *times) if column not in have]
  if missing or not have & {*needs, *more}:
    missing += [] if have & {*needs, *more} else [" or ".join(needs)]
    names = "; ".join(
      f"{key} ({', '.join(COLUMNS[key])})"
      for key in dict.fromkeys(("video", "start", "end", *needs))
    )
    raise text_tables.TableError(
      f"{path} has the header {list(table.header)}, which lacks "
      f"{', '.join(missing)}; accepted names: {names}. `clap convert "
      "annotations` reads the exports of ELAN and BORIS"
    )
  return AnnotationTable(table, in_milliseconds)
