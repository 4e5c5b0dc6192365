"""TFDS builder of QVHighlights: queries with all their moments.

A query has a caption per window. The released test file has queries without
windows: its videos come without captions. Saliency scores stay in the files.
"""

from clap_jax.annotations import own_files
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
    own_files.read_json_lines(path, file, subset=split)
  return file
