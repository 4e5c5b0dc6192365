"""TFDS builder of a folder of videos with an annotation file."""

from typing import ClassVar

from tfds_builders import annotations, video_builder
from tfds_builders.folder import annotation_files


class Builder(video_builder.VideoBuilder):
  """Splits are the subsets of the annotation file."""

  DESCRIPTION: ClassVar[str] = "Your own videos with your own annotations."


def read(
  files: annotations.SourceFiles, config: str
) -> annotations.AnnotationFile:
  """Reads the file; `config` is only the caller's name for the dataset."""
  del config
  return annotation_files.read(files)
