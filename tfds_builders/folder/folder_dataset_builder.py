"""TFDS builder of a folder of videos with an annotation file.

Its splits are the subsets of the annotation file.
"""

from clap_jax.annotations import own_files
from clap_jax.annotations.annotation_file import AnnotationFile
from clap_jax.annotations.source_files import SourceFiles
from tfds_builders import video_builder

Builder = video_builder.make(
  __name__, "Your own videos with your own annotations."
)


def read(files: SourceFiles, config: str) -> AnnotationFile:
  """Reads the file; `config` is only the caller's name for the dataset."""
  del config
  return own_files.read(files)
