"""TFDS builder of QVHighlights: queries with all their moments."""

import json
from typing import ClassVar

from tfds_builders import annotations, video_builder

_FILES = {"train": "train", "validation": "val", "test": "test"}


class Builder(video_builder.VideoBuilder):
  """Splits train, validation and test; a query has a caption per window.

  The released test file has queries without windows: its videos come without
  captions. Saliency scores stay in the annotation files.
  """

  DESCRIPTION: ClassVar[str] = (
    "Vlog and news videos of 150 seconds with queries and their moments."
  )


def read(
  files: annotations.SourceFiles, config: str
) -> annotations.AnnotationFile:
  """Reads highlight_{train,val,test}_release.jsonl.

  Raises:
    ValueError: if a file is not in shape.
    FileNotFoundError: if one is not there.
  """
  del config
  file = annotations.AnnotationFile(class_names=[])
  for split, stem in _FILES.items():
    path = files.find(f"highlight_{stem}_release.jsonl")
    for where, line in annotations.load_lines(path):
      try:
        row = json.loads(line)
        name, query = str(row["vid"]), row["query"]
      except (ValueError, KeyError, TypeError) as error:
        file.reject(where, "", f"not a query with a video: {error}")
        continue
      entry = file.entry(name, split, where)
      entry.expected_duration_sec = annotations.positive(row.get("duration"))
      file.count_of(entry, "queries")
      for window in row.get("relevant_windows", []):
        span = (*annotations.pair(window), query)
        file.add(entry, "captions", span=span, where=where)
  return file
