"""Reads objects of annotated videos in ActivityNet's and similar forms.

{"database": {video: {"subset", "duration", "annotations": [{"segment", "label",
"caption"}]}}} with "videos" or nothing in the place of "database" (BMN), in
which a video may also have "actions" [[class, start, end]] (MultiTHUMOS,
Charades), "captions", or "timestamps" and "sentences" (ActivityNet Captions;
TACoS, which counts frames). A list holds rows; see own_files.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from clap_jax.annotations import annotation_file, annotation_tables
from clap_jax.annotations.annotation_file import (
  WHOLE_VIDEO_SEC,
  AnnotationFile,
  Entry,
  SpanError,
)
from clap_jax.storage.locations import PathLike

_TEXT_KEYS = ("caption", "sentence", "text")
_ROOTS = ("database", "videos")
# An object of videos without a root: what at least one of them must have.
_VIDEO_KEYS = (
  "annotations",
  "actions",
  "captions",
  "timestamps",
  "subset",
  "label",
)


def read_videos(
  document: Any,
  file: AnnotationFile,
  *,
  name: PathLike,
  subset: str | None = None,
) -> None:
  """Adds the videos of a document; `subset` overrides their own.

  Raises:
    ValueError: it is not an object of videos; the message has `name`.
  """
  root = _root_of(document, name, has_lists=file.is_strict)
  videos = document[root] if root else document
  note_label_ids(videos.values(), file)
  for key, value in videos.items():
    where = f"{root}.{key[:200]}" if root else key[:200]
    if isinstance(value, dict):
      read_video(key, value, file, where, subset=subset)
    elif isinstance(value, list) and file.is_strict:  # windows by query
      entry = file.entry("", "", where)
      file.note_query(key, where)
      for window in value:
        span = (*annotation_file.pair(window), "")
        file.add(entry, "captions", span=span, where=where, query=key)
    else:
      file.reject(where, key, "not an object")


def _root_of(document, name, *, has_lists) -> str | None:
  """Returns the key of the object of videos; None for the document."""
  if isinstance(document, dict):
    for key in _ROOTS:
      if isinstance(document.get(key), dict):
        return key
    if not any(key in document for key in _ROOTS) and any(
      any(key in video for key in _VIDEO_KEYS)
      if isinstance(video, dict)
      else has_lists and isinstance(video, list)
      for video in document.values()
    ):
      return None
  got = (
    f"an object with the keys {sorted(map(str, document))[:8]}"
    if isinstance(document, dict)
    else type(document).__name__
  )
  raise ValueError(
    f'{name} has neither "database" nor "videos" with an object of '
    f'videos, but {got}; expected {{"database": {{id: {{"annotations": '
    '[{"segment": [start, end], "label": name}]}}}, or a list of objects '
    "with video, start, end and label. `clap convert annotations` reads the "
    "exports of ELAN, BORIS, Label Studio, VIA and CVAT"
  )


def note_label_ids(videos: Iterable[Any], file: AnnotationFile) -> None:
  """Records the names of class numbers in annotations."""
  for video in videos:
    given = video.get("annotations") if isinstance(video, dict) else None
    for item in given if isinstance(given, list) else ():
      if isinstance(item, dict) and isinstance(item.get("label"), str):
        number = item.get("label_id")
        if isinstance(number, int | float | str):
          file.label_ids.setdefault(number, set()).add(item["label"])


def read_video(
  name: str,
  value: Mapping[str, Any],
  file: AnnotationFile,
  where: str,
  *,
  subset: str | None = None,
) -> None:
  """Adds the annotations of one video, or rejects it."""
  try:
    if subset is None:
      subset = file.split_of(value.get("subset", value.get("split")))
    entry = file.same_entry(name, subset, where)
  except SpanError as error:
    file.reject(where, name, str(error))
    return
  _state_length(entry, value)
  readers = {
    "annotations": _read_items,
    "actions": _read_actions,
    "captions": _read_captions,
  }
  for key, reader in readers.items():
    if key in value:
      reader(value[key], file, entry, f"{where}.{key}")
  if "timestamps" in value:
    _read_timestamps(value, file, entry, where)
  if isinstance(value.get("label"), (str, int)) and not value.get(
    "annotations"
  ):
    span = (0.0, WHOLE_VIDEO_SEC, file.label_of(value))
    file.add(entry, "segments", span=span, where=f"{where}.label")
  elif file.is_strict and not {*readers, "timestamps"} & value.keys():
    file.reject(
      where,
      name,
      f"got the keys {sorted(map(str, value))[:8]}; expected annotations",
    )


def _state_length(entry: Entry, value: Mapping[str, Any]) -> None:
  """Records lengths; BMN's features cover the first `feature_frame`."""

  def stated(*keys):
    found = (annotation_file.positive(value.get(key)) for key in keys)
    return next((number for number in found if number), None)

  duration_sec = stated("duration", "duration_second", "duration_sec")
  entry.fps, frames = stated("fps"), stated("num_frames")
  if frames and entry.fps and not duration_sec:  # TACoS
    entry.expected_frames, duration_sec = round(frames), frames / entry.fps
  entry.expected_duration_sec = duration_sec
  frames, covered = stated("duration_frame"), stated("feature_frame")
  if frames and duration_sec:
    entry.fps = entry.fps or frames / duration_sec
    entry.covered_sec = covered and covered / frames * duration_sec


def times_of(item: Mapping[str, Any]) -> tuple:
  """Returns (start, end) of an annotation, under any common key.

  A missing annotation yields a SpanError in place of each.
  """
  for key in ("segment", "timestamp"):
    if key in item:
      return annotation_file.pair(item[key])
  found = annotation_tables.named(item)
  if {"start", "end"} <= set(found):
    return found["start"], found["end"]
  if {"start_ms", "end_ms"} <= set(found):
    times = map(annotation_file.number, (found["start_ms"], found["end_ms"]))
    return tuple(None if t is None else t / 1000 for t in times)
  reason = SpanError(
    f"no times: got the keys {sorted(map(str, item))[:8]}; expected "
    '"segment": [start, end] or start and end, in seconds'
  )
  return reason, reason


def _read_items(value, file, entry, where, *, has_labels=True, depth=0):
  """Adds a list of annotations, or one list per annotator."""
  if isinstance(value, dict) and "timestamps" in value:
    _read_timestamps(value, file, entry, where)
  elif isinstance(value, dict) and depth < 2:
    for key, each in value.items():
      _read_items(
        each,
        file,
        entry,
        f"{where}.{key}",
        has_labels=has_labels,
        depth=depth + 1,
      )
  elif isinstance(value, list):
    for index, given in enumerate(value):
      item = given if isinstance(given, dict) else {}
      caption = next((item[k] for k in _TEXT_KEYS if item.get(k)), None)
      texts = {"captions": caption}
      if has_labels:
        label = file.label_of(item)
        has_label = label is not None or caption is None
        texts = {"segments": label} if has_label else {}
        texts |= {"captions": caption} if caption is not None else {}
      for kind, text in texts.items():
        span = (*times_of(item), text)
        file.add(entry, kind, span=span, where=f"{where}[{index}]")
  else:
    reason = SpanError(f"got {str(value)[:40]!r}; expected a list of objects")
    span = (reason, reason, None)
    kind = "segments" if has_labels else "captions"
    file.add(entry, kind, span=span, where=where)


def _read_captions(value, file, entry, where):
  _read_items(value, file, entry, where, has_labels=False)


def _read_actions(value, file, entry, where):
  for index, action in enumerate(value if isinstance(value, list) else [None]):
    is_triple = isinstance(action, list) and len(action) == 3
    label, start, end = action if action and is_triple else [None] * 3
    span = (start, end, file.label_of({"label": label}))
    file.add(entry, "segments", span=span, where=f"{where}[{index}]")


def _read_timestamps(value, file, entry, where):
  """Adds captions from parallel lists; query ids are <video>_<index>."""
  times = value["timestamps"]
  texts = value.get("sentences", times)
  per_sec = 1.0
  if "fps" in value and "duration" not in value:  # the times are frames
    per_sec = annotation_file.positive(value["fps"])
  if (
    not isinstance(times, list)
    or not isinstance(texts, list)
    or len(times) != len(texts)
    or per_sec is None
  ):
    file.reject(
      f"{where}.timestamps",
      entry.name,
      "expected as many timestamps as sentences and, where they count frames, "
      "an fps above 0",
      split=entry.subset,
    )
    return
  for index, (span, text) in enumerate(zip(times, texts, strict=True)):
    query = f"{query_video(entry.name)}_{index}"
    file.note_query(query, where)
    file.add(
      entry,
      "captions",
      span=(
        *(_in_seconds(time, per_sec) for time in annotation_file.pair(span)),
        "" if texts is times else text,
      ),
      where=f"{where}.timestamps[{index}]",
      query=query,
    )


def _in_seconds(time, per_sec):
  try:
    return annotation_file.seconds(time) / per_sec
  except SpanError as error:
    return error


def query_video(name: str) -> str:
  """Returns the name of a video in query ids."""
  return name.removesuffix(".avi").removesuffix(".mp4")
