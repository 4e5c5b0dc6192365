"""TFDS builder of EPIC-SOUNDS: sounds in EPIC-KITCHENS-100's videos."""

from clap_jax.annotations import source_files
from clap_jax.annotations.annotation_file import AnnotationFile
from clap_jax.annotations.source_files import SourceFiles
from tfds_builders import video_builder
from tfds_builders.epic_kitchens_100 import epic_kitchens_100_dataset_builder

_SPLITS = ("train", "validation")
_COLUMNS = (
  "video_id",
  "start_timestamp",
  "stop_timestamp",
  "description",
  "class",
  "class_id",
)


Builder = video_builder.make(
  __name__,
  "Long egocentric kitchen videos with segments of 44 kinds of sounds.",
)


def read(files: SourceFiles, config: str) -> AnnotationFile:
  """Reads EPIC_Sounds_{train,validation}.csv.

  EPIC_100_video_info.csv of EPIC-KITCHENS-100, if found, has the lengths.
  Classes are in the order of class_id; the descriptions are captions.
  """
  del config
  file = AnnotationFile()
  names: dict[int, str] = {}
  for split in _SPLITS:
    path = files.find(f"EPIC_Sounds_{split}.csv")
    for where, row in source_files.load_rows(path, columns=_COLUMNS):
      entry = file.entry(row["video_id"], split, where)
      label, number = row["class"].strip(), row["class_id"].strip()
      if not number.isdecimal() or names.get(int(number), label) != label:
        file.reject(
          where,
          entry.name,
          f"class {label[:40]!r} has the number {number[:40]!r}, which is none "
          "or another class's",
          split=split,
        )
        continue
      if label:
        names[int(number)] = label
      times = row["start_timestamp"], row["stop_timestamp"]
      file.add(entry, "segments", span=(*times, label), where=where)
      if row["description"].strip():
        span = (*times, row["description"])
        file.add(entry, "captions", span=span, where=where)
  epic_kitchens_100_dataset_builder.expect_lengths(file, files)
  file.class_names = list(
    dict.fromkeys(names[number] for number in sorted(names))
  )
  return file
