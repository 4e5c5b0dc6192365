"""TFDS builder of EPIC-KITCHENS-100 action detection, by verb or by noun.

The task scores verbs and nouns separately, so each is a config.
"""

from clap_jax.annotations import annotation_file, source_files
from clap_jax.annotations.annotation_file import AnnotationFile
from clap_jax.annotations.source_files import SourceFiles
from tfds_builders import names, video_builder

_SPLITS = {"train": "train", "validation": "validation"}
_CHALLENGE = {"train": "training", "validation": "validation"}
_CHALLENGE_FPS = 30.0  # frames per second of the detection challenge
_COLUMNS = ("video_id", "start_timestamp", "stop_timestamp", "narration")
_CHALLENGE_COLUMNS = ("video", "start", "stop")


Builder = video_builder.make(
  __name__,
  "Long egocentric kitchen videos with dense segments of verbs or nouns.",
  configs=names.ANNOTATED["epic_kitchens_100"],
)


def read(files: SourceFiles, config: str) -> AnnotationFile:
  """Reads EPIC_100_{train,validation}.csv and the classes of the config.

  The detection challenge's training.csv and validation.csv, also with the
  prefix `c2_`, replace missing ones: their times are frames at 30 per second,
  and they have no narrations.
  """
  file = _file_of_classes(files, config)
  for split, stem in _SPLITS.items():
    challenge = f"{_CHALLENGE[split]}.csv"
    path = files.find(f"EPIC_100_{stem}.csv", f"c2_{challenge}", challenge)
    reader = _read_row if path.name.startswith("EPIC") else _read_frames
    columns = _CHALLENGE_COLUMNS if reader is _read_frames else _COLUMNS
    column = config if reader is _read_frames else f"{config}_class"
    for where, row in source_files.load_rows(path, columns=(*columns, column)):
      number = row[column]
      label = file.label_of(
        {"label": int(number) if number.isdigit() else None}
      )
      reader(file, row, where, split=split, label=label)
  expect_lengths(file, files)
  return file


def _file_of_classes(files, config):
  """Returns an empty file with the classes."""
  path = files.find(
    f"EPIC_100_{config}_classes_v2.csv", f"EPIC_100_{config}_classes.csv"
  )
  rows = source_files.load_rows(path, columns=("id", "key"))
  names = {row["id"]: row["key"] for _, row in rows}
  if list(names) != [str(number) for number in range(len(names))]:
    raise ValueError(f"{path}: the ids do not count from 0 without a gap")
  return AnnotationFile(
    class_names=list(names.values()),
    label_ids={int(number): {name} for number, name in names.items()},
  )


def _read_row(file, row, where, *, split, label):
  entry = file.entry(row["video_id"], split, where)
  times = row["start_timestamp"], row["stop_timestamp"]
  file.add(entry, "segments", span=(*times, label), where=where)
  if row["narration"].strip():
    span = (*times, row["narration"])
    file.add(entry, "captions", span=span, where=where)


def _read_frames(file, row, where, *, split, label):
  entry = file.entry(row["video"], split, where)
  frames = [annotation_file.number(row[key]) for key in ("start", "stop")]
  times = [None if f is None else f / _CHALLENGE_FPS for f in frames]
  file.add(entry, "segments", span=(*times, label), where=where)


def expect_lengths(file: AnnotationFile, files: SourceFiles) -> None:
  """Adds the videos' lengths in EPIC_100_video_info.csv, if it exists."""
  path = files.find_optional("EPIC_100_video_info.csv")
  if path is None:
    return
  rows = source_files.load_rows(path, columns=("video_id", "duration", "fps"))
  for _, row in rows:
    entry = file.entries.get(row["video_id"])
    duration_sec = annotation_file.positive(row["duration"])
    fps = annotation_file.positive(row["fps"])
    if entry and duration_sec and fps:
      entry.expected_duration_sec = duration_sec
      entry.expected_frames = round(duration_sec * fps)
