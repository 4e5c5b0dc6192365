"""Reads ground truth of detection in the forms the data sets publish.

ActivityNet's JSON ({"database": {video: {"subset", "annotations": [{"label",
"segment"}]}}}), the same without "database" (BMN), {"actions": [[class, start,
end]]} (MultiTHUMOS, Charades), Ego4D's moments ({"videos": [{"split", "clips":
[{"clip_uid", "annotations": [{"labels"}]}]}]}; primary labels count), a folder
of THUMOS14 text, and EPIC-KITCHENS, EPIC-SOUNDS or G-TAD CSV.
"""

import dataclasses
from typing import Any

from clap_jax.metrics import documents
from clap_jax.metrics.prediction_entries import NO_LABEL
from clap_jax.metrics.problems import ProblemLog
from clap_jax.metrics.tables import SegmentTable
from clap_jax.storage import locations, text_tables

_SUBSET_NAMES = (
  ("train", "training"),
  ("val", "valid", "validation"),
  ("test", "testing"),
)
# Columns of the CSV forms: the first present one is taken.
_CSV_VIDEO = ("video_id", "video", "video-name", "file", "filename")
_CSV_START = ("start_timestamp", "start", "t-init", "begin")
_CSV_END = ("stop_timestamp", "end", "t-end", "stop")
_CSV_LABEL = ("type", "class", "label-idx", "action")
_CSV_SUFFIXES = (".csv", ".tsv")


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoFacts:
  """Facts of a video in JSON besides its annotations; None where not stated.

  BMN's and G-TAD's files give frames and seconds; their features stand for
  `covered_sec`, the first `feature_frame` frames.
  """

  subset: str | None
  duration_sec: float | None
  fps: float | None
  covered_sec: float | None


@dataclasses.dataclass(frozen=True, eq=False)
class GroundTruth:
  """A split: its segments, its name, and names of its class numbers."""

  table: SegmentTable
  split: str
  label_names: dict[str, str]  # class number -> name
  videos: dict[str, VideoFacts]  # of JSON; empty for other forms


class _Rows:
  """Columns under construction."""

  def __init__(self) -> None:
    self.videos: list[str] = []  # of the split, with or without segments
    self.rows: list[tuple[str, float, float, str]] = []
    self.label_names: dict[str, str] = {}
    self.facts: dict[str, VideoFacts] = {}

  def finish(self, *, split: str) -> GroundTruth:
    video, start, end, label = (
      zip(*self.rows, strict=True) if self.rows else ((),) * 4
    )
    table = SegmentTable.from_columns(
      video=video,
      start_sec=start,
      end_sec=end,
      label=label,
      video_names=tuple(dict.fromkeys(self.videos)),
    )
    return GroundTruth(table, split, self.label_names, self.facts)


def read_ground_truth(
  path: locations.Location,
  *,
  subset: str | None,
  label_field: str = "label",
  needs_label: bool = True,
) -> GroundTruth:
  """Reads the annotations of one subset (None: of every video).

  Subsets are compared without case, and "val" is "validation"; a file that
  marks no subset is read whole. Proposals need no label.

  Raises:
    MalformedFileError: listing every problem, or the subsets there are.
    OSError: the file cannot be opened.
  """
  log = ProblemLog(path)
  rows = _Rows()
  split = subset or "all"
  if path.is_dir():
    split = _read_thumos_folder(path, rows, log=log, subset=subset)
  elif path.suffix.lower() in _CSV_SUFFIXES:
    _read_csv(path, rows, log=log, label_field=label_field)
    split = path.stem
  else:
    content = documents.read_json(path, log)
    if isinstance(content, dict) and isinstance(content.get("database"), dict):
      content = content["database"]
    elif isinstance(content, dict) and isinstance(content.get("videos"), list):
      content = _ego4d_clips(content["videos"], log)
    if not isinstance(content, dict) or not content:
      log.add("", f"got {documents.kind(content)}; expected videos by name")
      log.raise_if_any()
    split = _read_videos(
      content,
      rows,
      log=log,
      subset=subset,
      label_field=label_field,
      needs_label=needs_label,
    )
  log.raise_if_any()
  return rows.finish(split=split)


def same_subset(first: str, second: str) -> bool:
  """True for equal names, without case, and for known synonyms."""
  first, second = first.lower(), second.lower()
  return first == second or any(
    first in names and second in names for names in _SUBSET_NAMES
  )


def _read_videos(
  videos: dict[str, Any],
  rows: _Rows,
  *,
  log: ProblemLog,
  subset: str | None,
  label_field: str,
  needs_label: bool,
) -> str:
  marked = {
    str(video["subset"])
    for video in videos.values()
    if isinstance(video, dict) and "subset" in video
  }
  wanted = [name for name in marked if subset and same_subset(name, subset)]
  if subset and marked and not wanted:
    log.add("", f"got the subsets {sorted(marked)}; expected {subset!r}")
    log.raise_if_any()
  for name, video in videos.items():
    if not isinstance(video, dict):
      log.add(f"[{name!r}]", f"got {documents.kind(video)}; expected an object")
      continue
    if wanted and video.get("subset") not in wanted:
      continue
    rows.videos.append(name)
    rows.facts[name] = _facts(video)
    if isinstance(video.get("actions"), list):
      entries = [
        {"label": entry[0], "segment": entry[1:]}
        if isinstance(entry, list) and len(entry) == 3
        else entry
        for entry in video["actions"]
      ]
    else:
      entries = video.get("annotations")
    if not isinstance(entries, list):
      log.add(
        f"[{name!r}].annotations",
        f"got {documents.kind(entries)}; expected a list",
      )
      continue
    for index, entry in enumerate(entries):
      location = f"[{name!r}].annotations[{index}]"
      _read_annotation(
        name,
        entry,
        rows=rows,
        location=location,
        log=log,
        label_field=label_field,
        needs_label=needs_label,
      )
  return wanted[0] if wanted else "all"


def _facts(video: dict[str, Any]) -> VideoFacts:
  def number(*keys: str) -> float | None:
    found = (documents.to_number(video[key]) for key in keys if key in video)
    return next((value for value in found if value and value > 0), None)

  duration_sec = number("duration", "duration_second")
  num_frames, fps = number("duration_frame"), number("fps")
  if fps is None and num_frames and duration_sec:
    fps = num_frames / duration_sec
  covered_sec, num_covered = None, number("feature_frame")
  if num_covered and num_frames and duration_sec:
    covered_sec = num_covered / num_frames * duration_sec
  subset = video.get("subset")
  return VideoFacts(
    subset=None if subset is None else str(subset),
    duration_sec=duration_sec,
    fps=fps,
    covered_sec=covered_sec,
  )


def _read_annotation(
  video: str,
  entry: Any,
  *,
  rows: _Rows,
  location: str,
  log: ProblemLog,
  label_field: str,
  needs_label: bool,
) -> None:
  segment = entry.get("segment") if isinstance(entry, dict) else None
  values = segment if isinstance(segment, list) else []
  seconds = [documents.to_seconds(value) for value in values]
  ends = [value for value in seconds if value is not None]
  if not len(seconds) == len(ends) == 2:
    got = documents.kind(entry if segment is None else segment)
    log.add(location, f"got {got}; expected a segment [start, end] in sec")
    return
  label = _label(entry, label_field)
  if label is None and not needs_label:
    label = NO_LABEL
  if label is None:
    log.add(location, f"got no {label_field}; expected a class")
    return
  if "label_id" in entry and "label" in entry:
    rows.label_names[str(entry["label_id"])] = str(entry["label"])
  rows.rows.append((video, ends[0], ends[1], label))


def _ego4d_clips(videos: list[Any], log: ProblemLog) -> dict[str, Any]:
  """Ego4D's moments as videos by clip, all annotators' primary labels."""
  clips: dict[str, Any] = {}
  for number, video in enumerate(videos):
    try:
      for clip in video["clips"]:
        clips[clip["clip_uid"]] = {
          "subset": video["split"],
          "annotations": [
            {
              "label": label["label"],
              "segment": [label["start_time"], label["end_time"]],
            }
            for annotator in clip["annotations"]
            for label in annotator["labels"]
            if label.get("primary", True)
          ],
        }
    except (KeyError, TypeError, AttributeError) as error:
      log.add(
        f"videos[{number}]",
        f"got no clips that can be read ({error!r}); expected split and clips "
        "with clip_uid and annotations",
      )
  log.raise_if_any()
  return clips


def _label(entry: dict[str, Any], field: str) -> str | None:
  """The class of an annotation: EPIC-KITCHENS's fields, else the label."""
  if field == "action":
    verb, noun = _label(entry, "verb"), _label(entry, "noun")
    if any(key.startswith("verb") for key in entry) and verb and noun:
      return f"{verb},{noun}"
  for key in (f"{field}_class", f"{field}_label", field, "label", "label_id"):
    if key in entry:
      return str(entry[key]).removeprefix("id_")
  return None


def _read_thumos_folder(
  path: locations.Location, rows: _Rows, *, log: ProblemLog, subset: str | None
) -> str:
  """Files <class>_<test or val>.txt of lines "video start end"."""
  files = sorted(path.glob("*_*.txt"))
  suffixes = sorted({file.stem.rpartition("_")[2] for file in files})
  wanted = [s for s in suffixes if subset is None or same_subset(s, subset)]
  if not wanted:
    log.add(
      "",
      f"got files for the subsets {suffixes}; expected <class>_{subset}.txt",
    )
  for file in files:
    label, _, suffix = file.stem.rpartition("_")
    if suffix not in wanted:
      continue
    text = documents.read_text(file, ProblemLog(file))
    lines = text_tables.split_lines(text)
    for number, line in enumerate(lines, start=1):
      fields = line.split()
      numbers = [documents.to_number(value) for value in fields[1:]]
      ends = [value for value in numbers if value is not None]
      if fields and not len(numbers) == len(ends) == 2:
        log.add(
          f"{file.name} line {number}",
          f"got {line.strip()[:60]!r}; expected: video start_sec end_sec",
        )
      elif fields:
        rows.videos.append(fields[0])
        rows.rows.append((fields[0], ends[0], ends[1], label))
  return wanted[0] if wanted else "all"


def _read_csv(
  path: locations.Location, rows: _Rows, *, log: ProblemLog, label_field: str
) -> None:
  text = documents.read_text(path, log)
  fields = [f"{label_field}{end}" for end in ("", "_class", "_label")]
  known = (*_CSV_VIDEO, *_CSV_START, *_CSV_END, *_CSV_LABEL, *fields)
  try:
    table = text_tables.parse_table(
      text, name=path, columns=dict.fromkeys((*known, "label", "label_id"), ())
    )
    for row in table:
      record = {key: value for key, value in row.cells.items() if key and value}
      found = _csv_annotation(
        record, label_field=label_field, decimal_comma=table.decimal_comma
      )
      if found is None:
        expected = "expected a video, a class, a start and an end"
        log.add(f"line {row.line}", expected)
        continue
      rows.videos.append(found[0])
      rows.rows.append(found)
  except text_tables.TableError as error:
    log.add("", str(error))


def _csv_annotation(
  record: dict[str, str], *, label_field: str, decimal_comma: bool
) -> tuple[str, float, float, str] | None:
  """(video, start, end, class) of a row; None where it lacks one of them."""
  label = _label(record, label_field) or next(
    (record[name] for name in _CSV_LABEL if name in record), None
  )
  video, start, end = (
    next((record[name] for name in names if name in record), None)
    for names in (_CSV_VIDEO, _CSV_START, _CSV_END)
  )
  start, end = (
    documents.to_seconds(time, decimal_comma=decimal_comma)
    for time in (start, end)
  )
  if video is None or start is None or end is None or label is None:
    return None
  return video, start, end, label
