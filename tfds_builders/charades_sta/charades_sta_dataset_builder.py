"""TFDS builder of Charades-STA: sentences with their moments in Charades."""

import re
from typing import ClassVar

from tfds_builders import annotations, video_builder

_SPLITS = ("train", "test")
_LINE = re.compile(r"(\S+) (\S+) (\S+)##(.*)")


class Builder(video_builder.VideoBuilder):
  """Builds the splits train and test; there is no validation split.

  Build with `selection_percent`, so that no checkpoint is chosen on `test`.
  """

  DESCRIPTION: ClassVar[str] = (
    "Videos of everyday activities at home with sentences and their moments."
  )


def read(
  files: annotations.SourceFiles, config: str
) -> annotations.AnnotationFile:
  """Reads charades_sta_{train,test}.txt; lengths from Charades_v1_*.csv.

  Raises:
    ValueError: if a file is not in shape.
    FileNotFoundError: if one of the first two is not there.
  """
  del config
  file = annotations.AnnotationFile(class_names=[])
  for split in _SPLITS:
    path = files.find(f"charades_sta_{split}.txt")
    for where, line in annotations.load_lines(path):
      match = _LINE.fullmatch(line)
      if match is None:
        file.reject(where, "", "not a line of VIDEO START END##SENTENCE")
        continue
      name, start, end, text = match.groups()
      entry = file.entry(name, split, where)
      file.add(entry, "captions", span=(start, end, text), where=where)
    lengths = files.find_optional(f"Charades_v1_{split}.csv")
    if lengths is not None:
      for _, row in annotations.load_rows(lengths, columns=("id", "length")):
        entry = file.entries.get(row["id"])
        if entry:
          duration_sec = annotations.positive(row["length"])
          entry.expected_duration_sec = duration_sec
  return file
