"""TFDS builder of YouCook2: cooking videos with a sentence per step."""

from typing import ClassVar

from tfds_builders import annotations, video_builder


class Builder(video_builder.VideoBuilder):
  """Splits train and validation; the steps of test videos are not public."""

  DESCRIPTION: ClassVar[str] = (
    "Cooking videos from the web with a sentence for each step of the recipe."
  )


def read(
  files: annotations.SourceFiles, config: str
) -> annotations.AnnotationFile:
  """Reads youcookii_annotations_trainval.json.

  Raises:
    ValueError: if it is not in shape.
    FileNotFoundError: if it is not there.
  """
  del config
  file = annotations.AnnotationFile(class_names=[])
  path = files.find(
    "youcookii_annotations_trainval.json",
    "youcookii_annotations_trainval*.json",
  )
  document = annotations.load_json(path)
  videos = document.get("database") if isinstance(document, dict) else None
  if not isinstance(videos, dict):
    raise ValueError(f"{path} is not an object with a database of videos")
  for name, video in videos.items():
    _read_video(file, name, video, where=f"database.{name[:100]}")
  return file


def _read_video(file, name, video, *, where) -> None:
  steps = video.get("annotations") if isinstance(video, dict) else None
  if not isinstance(steps, list):
    file.reject(where, name, "no list of annotations")
    return
  try:
    split = annotations.split_of(video.get("subset"))
  except annotations.SpanError as error:
    file.reject(where, name, str(error))
    return
  entry = file.entry(name, split, where)
  entry.expected_duration_sec = annotations.positive(video.get("duration"))
  for index, given in enumerate(steps):
    step = given if isinstance(given, dict) else {}
    span = (*annotations.pair(step.get("segment")), step.get("sentence"))
    file.add(
      entry, "captions", span=span, where=f"{where}.annotations[{index}]"
    )
