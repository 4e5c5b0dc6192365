"""TFDS builder of QVHighlights: queries with all their moments.

A query has a caption per window. The released test file has queries without
windows: its videos come without captions. Saliency scores stay in the files.
"""

import json

from clap_jax.annotations import annotation_file, source_files
from clap_jax.annotations.annotation_file import AnnotationFile
from clap_jax.annotations.source_files import SourceFiles
from tfds_builders import video_builder

_FILES = {"train": "train", "validation": "val", "test": "test"}


Builder = video_builder.make(
  __name__,
  "Vlog and news videos of 150 seconds with queries and their moments.",
)


def read(files: SourceFiles, config: str) -> AnnotationFile:
  """Reads highlight_{train,val,test}_release.jsonl."""
  del config
  file = AnnotationFile(class_names=[])
  for split, stem in _FILES.items():
    path = files.find(f"highlight_{stem}_release.jsonl")
    for where, line in source_files.load_lines(path):
      try:
        row = json.loads(line)
        name, query = str(row["vid"]), row["query"]
      except (ValueError, KeyError, TypeError) as error:
        file.reject(where, "", f"not a query with a video: {error}")
        continue
      entry = file.entry(name, split, where)
      entry.expected_duration_sec = annotation_file.positive(
        row.get("duration")
      )
      file.count_of(entry, "queries")
      for window in row.get("relevant_windows", []):
        span = (*annotation_file.pair(window), query)
        file.add(entry, "captions", span=span, where=where)
  return file
