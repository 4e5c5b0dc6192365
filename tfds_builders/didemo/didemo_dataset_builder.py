"""TFDS builder of DiDeMo: descriptions of moments in steps of five seconds."""

import collections

from clap_jax.annotations import annotation_file, source_files
from clap_jax.annotations.annotation_file import AnnotationFile
from clap_jax.annotations.source_files import SourceFiles
from tfds_builders import video_builder

_FILES = {"train": "train", "validation": "val", "test": "test"}
_STEP_SEC = 5.0  # of the moments that annotators chose from


Builder = video_builder.make(
  __name__,
  "Personal videos of half a minute with descriptions of their moments.",
)


def read(files: SourceFiles, config: str) -> AnnotationFile:
  """Reads {train,val,test}_data.json.

  A description gets the moment that most annotators chose, on a tie the first.
  """
  del config
  file = AnnotationFile(class_names=[])
  for split, stem in _FILES.items():
    path = files.find(f"{stem}_data.json")
    rows = source_files.load_json(path)
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
  """Returns (start, end) in seconds of the most frequent moment."""
  chosen = [
    annotation_file.pair(pair)
    for pair in (times if isinstance(times, list) else ())
  ]
  counts = collections.Counter(
    (first, last)
    for first, last in chosen
    if type(first) is int and type(last) is int and 0 <= first <= last
  )
  if not counts:
    return None, None
  # On a tie the first one.
  ((first, last), _) = counts.most_common(1)[0]
  return first * _STEP_SEC, (last + 1) * _STEP_SEC
