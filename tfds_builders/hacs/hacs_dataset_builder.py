"""TFDS builder of HACS Segments."""

from clap_jax.annotations import own_files
from clap_jax.annotations.annotation_file import AnnotationFile
from clap_jax.annotations.source_files import SourceFiles
from tfds_builders import video_builder

Builder = video_builder.make(
  __name__,
  "Untrimmed web videos with segments of 200 human actions.",
)


def read(files: SourceFiles, config: str) -> AnnotationFile:
  """Reads HACS_segments_v1.1.1.json, which has ActivityNet's form."""
  del config
  return own_files.read_json(
    files.find("HACS_segments_v*.json"), AnnotationFile()
  )
