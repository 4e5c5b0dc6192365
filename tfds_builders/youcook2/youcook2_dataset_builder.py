"""TFDS builder of YouCook2: cooking videos with a sentence per step.

The steps of test videos are not public.
"""

from clap_jax.annotations import annotation_file, source_files
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
  file = AnnotationFile(class_names=[])
  path = files.find(
    "youcookii_annotations_trainval.json",
    "youcookii_annotations_trainval*.json",
  )
  document = source_files.load_json(path)
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
    split = annotation_file.split_of(video.get("subset"))
  except annotation_file.SpanError as error:
    file.reject(where, name, str(error))
    return
  entry = file.entry(name, split, where)
  entry.expected_duration_sec = annotation_file.positive(video.get("duration"))
  for index, given in enumerate(steps):
    step = given if isinstance(given, dict) else {}
    span = (*annotation_file.pair(step.get("segment")), step.get("sentence"))
    file.add(
      entry, "captions", span=span, where=f"{where}.annotations[{index}]"
    )
