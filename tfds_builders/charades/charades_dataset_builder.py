"""TFDS builder of Charades with its 157 actions."""

from typing import ClassVar

from tfds_builders import annotations, video_builder
from tfds_builders.charades import action_lists

NUM_CLASSES = 157
_SPLITS = ("train", "test")
_COLUMNS = ("id", "script", "actions", "length")


class Builder(video_builder.VideoBuilder):
  """Splits train and test."""

  DESCRIPTION: ClassVar[str] = (
    "Videos of everyday activities at home with overlapping segments of 157 "
    "actions."
  )


def read(
  files: annotations.SourceFiles, config: str
) -> annotations.AnnotationFile:
  """Reads Charades_v1_{train,test}.csv, or else charades.json.

  Charades_v1_classes.txt names the classes; without it they are called c000 to
  c156.

  Raises:
    ValueError: if a file is not in shape.
    FileNotFoundError: if none is there.
  """
  del config
  names = action_lists.class_names(
    files.find_optional("Charades_v1_classes.txt"),
    [f"c{number:03d}" for number in range(NUM_CLASSES)],
    first_number=0,
  )
  if not files.find_all("Charades_v1_train.csv"):
    path = files.find("charades.json")
    return action_lists.read(path, names, first_number=0)
  file = annotations.AnnotationFile(class_names=names)
  for split in _SPLITS:
    path = files.find(f"Charades_v1_{split}.csv")
    for where, row in annotations.load_rows(path, columns=_COLUMNS):
      _read_row(file, row, where, names=names, split=split)
  return file


def _read_row(file, row, where, *, names, split):
  entry = file.entry(row["id"], split, where)
  entry.expected_duration_sec = annotations.positive(row["length"])
  for action in filter(None, row["actions"].split(";")):
    parts = action.split()
    number = parts[0].lstrip("c") if len(parts) == 3 else ""
    known = number.isdigit() and int(number) < len(names)
    label = names[int(number)] if known else None
    span = (*parts[1:], label) if known else (None, None, None)
    file.add(entry, "segments", span=span, where=f"{where}, {action[:40]}")
