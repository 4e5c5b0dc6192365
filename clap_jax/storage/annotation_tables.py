"""Reads tables of labelled or captioned segments."""

import dataclasses

from clap_jax.storage import text_tables
from clap_jax.storage.locations import PathLike

# The columns, and the other names that they go by.
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


@dataclasses.dataclass(frozen=True)
class AnnotationTable:
  """A table with a video and a span in every row."""

  table: text_tables.Table
  in_milliseconds: bool

  def times(self, row: text_tables.Row) -> tuple[float, float]:
    """(start, end) of a row in seconds.

    Raises:
      ValueError: one of them is no time.
    """
    if self.in_milliseconds:
      return tuple(
        text_tables.seconds(row.cells[key], decimal_comma=self.decimal_comma)
        / _MS_PER_SEC
        for key in ("start_ms", "end_ms")
      )
    return tuple(
      text_tables.seconds(row.cells[key], decimal_comma=self.decimal_comma)
      for key in ("start", "end")
    )

  @property
  def decimal_comma(self) -> bool:
    return self.table.decimal_comma


def read(
  path: PathLike,
  *,
  needs: tuple[str, ...] = ("label", "caption"),
  encoding: str | None = None,
) -> AnnotationTable:
  """Reads a table of `COLUMNS`; others are ignored.

  Args:
    path: the file.
    needs: columns one of which must be there besides video, start and end.
    encoding: see `text_tables.read_text`.

  Raises:
    UntrustedFileError: not a file of text.
    TableError: a column is missing, doubled, or in frames.
    OSError: the file cannot be opened.
  """
  table = text_tables.read_table(path, columns=COLUMNS, encoding=encoding)
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
  if missing or not have & {*needs}:
    missing += [] if have & {*needs} else [" or ".join(needs)]
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
