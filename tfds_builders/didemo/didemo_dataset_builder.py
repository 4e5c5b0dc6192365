"""TFDS builder of DiDeMo: descriptions of moments in steps of five seconds."""

import collections
from typing import ClassVar

from tfds_builders import annotations, video_builder

_FILES = {"train": "train", "validation": "val", "test": "test"}
_STEP_SEC = 5.0  # of the moments that annotators chose from


class Builder(video_builder.VideoBuilder):
  """Splits train, validation and test; a caption per description."""

  DESCRIPTION: ClassVar[str] = (
    "Personal videos of half a minute with descriptions of their moments."
  )


def read(
  files: annotations.SourceFiles, config: str
) -> annotations.AnnotationFile:
  """Reads {train,val,test}_data.json.

  Of the moments that several annotators chose, the most frequent one is taken,
  of equally frequent ones the first.

  Raises:
    ValueError: if a file is not in shape.
    FileNotFoundError: if one is not there.
  """
  del config
  file = annotations.AnnotationFile(class_names=[])
  for split, stem in _FILES.items():
    path = files.find(f"{stem}_data.json")
    rows = annotations.load_json(path)
    if not isinstance(rows, list):
      raise ValueError(f"{path} is not a list of descriptions")
    for index, row in enumerate(rows):
      where = f"{path.name}[{index}]"
      name = row.get("video") if isinstance(row, dict) else None
      if not isinstance(name, str) or not name:
        file.reject(where, "", "no description with a video", split=split)
        continue
      entry = file.entry(name, split, where)
      span = (*_moment(row.get("times")), row.get("description"))
      file.add(entry, "captions", span=span, where=where)
  return file


def _moment(times: object) -> tuple[float | None, float | None]:
  """(start, end) in seconds of the steps that most annotators chose."""
  chosen = [
    annotations.pair(pair)
    for pair in (times if isinstance(times, list) else ())
  ]
  counts = collections.Counter(
    (first, last)
    for first, last in chosen
    if type(first) is int and type(last) is int and 0 <= first <= last
  )
  if not counts:
    return None, None
  # Of equal counts, that which was met first.
  ((first, last), _) = counts.most_common(1)[0]
  return first * _STEP_SEC, (last + 1) * _STEP_SEC
