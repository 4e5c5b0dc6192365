"""TFDS builder of HACS Segments."""

from typing import ClassVar

from tfds_builders import annotations, video_builder
from tfds_builders.folder import annotation_files


class Builder(video_builder.VideoBuilder):
  """Splits train, validation and test, as in the annotation file."""

  DESCRIPTION: ClassVar[str] = (
    "Untrimmed web videos with segments of 200 human actions."
  )


def read(
  files: annotations.SourceFiles, config: str
) -> annotations.AnnotationFile:
  """Reads HACS_segments_v1.1.1.json, which has ActivityNet's form.

  Raises:
    ValueError: if it is not in shape.
    FileNotFoundError: if it is not there.
  """
  del config
  return annotation_files.read_json(files.find("HACS_segments_v*.json"))
