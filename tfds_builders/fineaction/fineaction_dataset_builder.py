"""TFDS builder of FineAction."""

from typing import ClassVar

from tfds_builders import annotations, video_builder
from tfds_builders.folder import annotation_files


class Builder(video_builder.VideoBuilder):
  """Splits train, validation and test, as in the annotation file."""

  DESCRIPTION: ClassVar[str] = (
    "Untrimmed web videos with dense segments of 106 fine-grained actions."
  )


def read(
  files: annotations.SourceFiles, config: str
) -> annotations.AnnotationFile:
  """Reads annotations_gt.json, which has ActivityNet's form.

  Raises:
    ValueError: if it is not in shape.
    FileNotFoundError: if it is not there.
  """
  del config
  path = files.find("annotations_gt.json", "*ine[Aa]ction*.json")
  return annotation_files.read_json(path)
