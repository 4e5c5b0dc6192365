"""TFDS builder of FineAction."""

from clap_jax.annotations import own_files
from clap_jax.annotations.annotation_file import AnnotationFile
from clap_jax.annotations.source_files import SourceFiles
from tfds_builders import video_builder

Builder = video_builder.make(
  __name__,
  "Untrimmed web videos with dense segments of 106 fine-grained actions.",
)


def read(files: SourceFiles, config: str) -> AnnotationFile:
  """Reads annotations_gt.json, which has ActivityNet's form."""
  del config
  path = files.find("annotations_gt.json", "*ine[Aa]ction*.json")
  return own_files.read_json(path, AnnotationFile())
