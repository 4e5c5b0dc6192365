"""TFDS builder of Charades with its 157 actions."""

from clap_jax.annotations import action_lists, annotation_file, source_files
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

  Charades_v1_classes.txt names the classes; without it they are called c000 to
  c156.
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
  file = AnnotationFile(class_names=names)
  for split in _SPLITS:
    path = files.find(f"Charades_v1_{split}.csv")
    for where, row in source_files.load_rows(path, columns=_COLUMNS):
      _read_row(file, row, where, names=names, split=split)
  return file


def _read_row(file, row, where, *, names, split):
  entry = file.entry(row["id"], split, where)
  entry.expected_duration_sec = annotation_file.positive(row["length"])
  for action in filter(None, row["actions"].split(";")):
    parts = action.split()
    number = parts[0].lstrip("c") if len(parts) == 3 else ""
    known = number.isdigit() and int(number) < len(names)
    label = names[int(number)] if known else None
    span = (*parts[1:], label) if known else (None, None, None)
    file.add(entry, "segments", span=span, where=f"{where}, {action[:40]}")
