"""TFDS builder of MultiTHUMOS: THUMOS14's videos under 65 dense labels.

`train` are THUMOS14's validation videos, `test` its test videos.
"""

from clap_jax.annotations import own_files
from clap_jax.annotations.annotation_file import AnnotationFile
from clap_jax.annotations.source_files import SourceFiles
from tfds_builders import video_builder
from tfds_builders.charades import charades_dataset_builder

NUM_CLASSES = 65

Builder = video_builder.make(
  __name__,
  "Untrimmed sports videos with dense, overlapping segments of 65 actions.",
)


def read(files: SourceFiles, config: str) -> AnnotationFile:
  """Reads multithumos.json, and the names of the classes if found.

  class_list.txt of the official archive has them; without it the names are
  class_01 to class_65.
  """
  del config
  file = charades_dataset_builder.file_of_classes(
    files.find_optional("class_list.txt"),
    {number: f"class_{number:02d}" for number in range(1, NUM_CLASSES + 1)},
  )
  return own_files.read_json(files.find("multithumos.json"), file)
