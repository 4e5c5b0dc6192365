"""TFDS builder of Charades with its 157 actions."""

import pathlib

from clap_jax.annotations import annotation_file, own_files, source_files
from clap_jax.annotations.annotation_file import AnnotationFile
from clap_jax.annotations.source_files import SourceFiles
from tfds_builders import video_builder

NUM_CLASSES = 157
_SPLITS = ("train", "test")
_COLUMNS = ("id", "script", "actions", "length")

Builder = video_builder.make(
  __name__,
  "Videos of everyday activities at home with overlapping segments of 157 "
  "actions.",
)


def read(files: SourceFiles, config: str) -> AnnotationFile:
  """Reads Charades_v1_{train,test}.csv, or else charades.json.

  Charades_v1_classes.txt names the classes; without it their names are c000 to
  c156.
  """
  del config
  file = file_of_classes(
    files.find_optional("Charades_v1_classes.txt"),
    {number: f"c{number:03d}" for number in range(NUM_CLASSES)},
  )
  if not files.find_all("Charades_v1_train.csv"):
    return own_files.read_json(files.find("charades.json"), file)
  for split in _SPLITS:
    path = files.find(f"Charades_v1_{split}.csv")
    for where, row in source_files.load_rows(path, columns=_COLUMNS):
      _read_row(file, row, where, split)
  return file


def _read_row(file, row, where, split):
  entry = file.entry(row["id"], split, where)
  entry.expected_duration_sec = annotation_file.positive(row["length"])
  for action in filter(None, row["actions"].split(";")):
    parts = action.split()
    number = parts[0].lstrip("c") if len(parts) == 3 else ""
    label = int(number) if number.isdecimal() else None
    span = (*parts[1:], file.label_of({"label": label}))
    span = span if len(span) == 3 else (None, None, None)
    file.add(entry, "segments", span=span, where=f"{where}, {action[:40]}")


def file_of_classes(
  path: pathlib.Path | None, names: dict[int, str]
) -> AnnotationFile:
  """Returns an empty file with classes of lines `c012 Some name` or `12 Name`.

  Without a path the classes are `names`.

  Raises:
    ValueError: the numbers are not those of `names`.
  """
  if path is not None:
    expected, names = names, {}
    for where, line in source_files.load_lines(path):
      number, _, name = line.partition(" ")
      if not number.lstrip("c").isdigit() or not name.strip():
        raise ValueError(
          f"{path}, {where}: not a line of NUMBER NAME: {line!r}"
        )
      names[int(number.lstrip("c"))] = name.strip()
    num_names = len(set(names.values()))
    if names.keys() != expected.keys() or num_names < len(names):
      raise ValueError(
        f"{path} names {num_names} classes; expected the numbers "
        f"{min(expected)} to {max(expected)}, each with a name of its own"
      )
  return AnnotationFile(
    class_names=[names[number] for number in sorted(names)],
    label_ids={number: {name} for number, name in names.items()},
  )
