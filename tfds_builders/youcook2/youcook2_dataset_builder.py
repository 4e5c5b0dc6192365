"""TFDS builder of YouCook2: cooking videos with a sentence per step.

The steps of test videos are not public.
"""

from clap_jax.annotations import own_files
from clap_jax.annotations.annotation_file import AnnotationFile
from clap_jax.annotations.source_files import SourceFiles
from tfds_builders import video_builder

Builder = video_builder.make(
  __name__,
  "Cooking videos from the web with a sentence for each step of the recipe.",
)


def read(files: SourceFiles, config: str) -> AnnotationFile:
  """Reads youcookii_annotations_trainval.json."""
  del config
  path = files.find(
    "youcookii_annotations_trainval.json",
    "youcookii_annotations_trainval*.json",
  )
  return own_files.read_json(path, AnnotationFile(class_names=[]))
