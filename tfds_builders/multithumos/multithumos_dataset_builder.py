"""TFDS builder of MultiTHUMOS: THUMOS14's videos under 65 dense labels."""

from typing import ClassVar

from tfds_builders import annotations, video_builder
from tfds_builders.charades import action_lists

NUM_CLASSES = 65


class Builder(video_builder.VideoBuilder):
  """`train` are THUMOS14's validation videos, `test` its test videos."""

  DESCRIPTION: ClassVar[str] = (
    "Untrimmed sports videos with dense, overlapping segments of 65 actions."
  )


def read(
  files: annotations.SourceFiles, config: str
) -> annotations.AnnotationFile:
  """Reads multithumos.json, and the names of the classes where they are found.

  class_list.txt of the official archive has them; without it the classes are
  called class_01 to class_65.

  Raises:
    ValueError: if a file is not in shape.
    FileNotFoundError: if it is not there.
  """
  del config
  names = action_lists.class_names(
    files.find_optional("class_list.txt"),
    [f"class_{number:02d}" for number in range(1, NUM_CLASSES + 1)],
    first_number=1,
  )
  return action_lists.read(
    files.find("multithumos.json"), names, first_number=1
  )
