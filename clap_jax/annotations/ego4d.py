"""Reads Ego4D's moments (MQ) and natural-language queries (NLQ).

{"videos": [{"split", "clips": [{"clip_uid", "annotations": [{"labels" or
"language_queries"}]}]}]}. A clip of the benchmark is a video.
"""

from collections.abc import Iterator
from typing import Any

from clap_jax.annotations import annotation_file
from clap_jax.annotations.annotation_file import (
  AnnotationFile,
  Entry,
  SpanError,
)
from clap_jax.storage import locations


def holds_clips(document: Any) -> bool:
  """Returns True if a document has this form."""
  videos = document.get("videos") if isinstance(document, dict) else None
  return isinstance(videos, list) and any(
    isinstance(video, dict) and "clips" in video for video in videos
  )


def read_moments(
  document: Any,
  file: AnnotationFile,
  *,
  path: locations.Location,
  subset: str | None = None,
) -> None:
  """Adds all annotators' labels of the taxonomy's primary activities.

  Args:
    file: annotations to add to.
    subset: subset of all clips; None for the "split" of their videos.

  Raises:
    ValueError: there is no list of videos.
  """
  for entry, item, where in _items(document, file, path, subset, "labels"):
    if item.get("primary", True):
      span = (item.get("start_time"), item.get("end_time"), item.get("label"))
      file.add(entry, "segments", span=span, where=where)


def read_queries(
  document: Any,
  file: AnnotationFile,
  *,
  path: locations.Location,
  subset: str,
  are_answered: bool,
) -> None:
  """Adds the queries; arguments and errors as `read_moments`."""
  key = "language_queries"
  for entry, item, where in _items(document, file, path, subset, key):
    file.count_of(entry, "queries")
    if are_answered:
      times = (item.get("clip_start_sec"), item.get("clip_end_sec"))
      span = (*times, item.get("query"))
      file.add(entry, "captions", span=span, where=where)


def _items(
  document, file, path, subset, key
) -> Iterator[tuple[Entry, dict, str]]:
  """Yields the objects in lists under `key` of all annotations."""
  videos = document.get("videos") if isinstance(document, dict) else None
  if not isinstance(videos, list):
    raise ValueError(f"{path} is not an object with a list of videos")
  for number, given in enumerate(videos):
    video = given if isinstance(given, dict) else {}
    clips = video.get("clips")
    for index, clip in enumerate(clips if isinstance(clips, list) else [{}]):
      where = f"{path.name} videos[{number}].clips[{index}]"
      entry = _entry(file, video, clip, where, subset)
      if entry is None:
        continue
      listed, position = clip.get("annotations"), 0
      for annotation in listed if isinstance(listed, list) else ():
        own = annotation.get(key) if isinstance(annotation, dict) else None
        for item in own if isinstance(own, list) else ():
          if isinstance(item, dict):
            yield entry, item, f"{where}.{key}[{position}]"
            position += 1


def _entry(file, video, clip, where, subset) -> Entry | None:
  name = clip.get("clip_uid") if isinstance(clip, dict) else None
  try:
    if not isinstance(name, str) or not name:
      raise SpanError("no clip with a clip_uid")
    if file.is_strict and not ("split" in video and "annotations" in clip):
      raise SpanError("expected a split and clips with annotations")
    split = file.split_of(video.get("split")) if subset is None else subset
    entry = file.entry(name, split, where)
  except SpanError as error:
    file.reject(where, "", str(error), split=subset)
    return None
  start_sec = annotation_file.number(clip.get("video_start_sec"))
  end_sec = annotation_file.number(clip.get("video_end_sec"))
  if start_sec is not None and end_sec is not None and end_sec > start_sec:
    entry.expected_duration_sec = end_sec - max(start_sec, 0.0)
  return entry
