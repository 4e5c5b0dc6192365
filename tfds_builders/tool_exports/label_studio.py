"""Reads exports of Label Studio: JSON and JSON-MIN."""

import re
import urllib.parse

from clap_jax.annotations import annotation_file
from clap_jax.storage import untrusted, video_names
from tfds_builders.tool_exports.export import MAX_BYTES, Export

_VIDEO_KEYS = ("video", "video_url", "url", "media", "audio", "file")
_FPS_KEYS = ("fps", "frame_rate", "framerate", "frameRate")
# Label Studio prefixes the name of an upload with digits of a hash.
_UPLOAD = re.compile(r"(?:^|/)upload/(?:\d+/)?[A-Za-z0-9]{3,8}-(?=.)")
_LABEL_KEYS = (
  "timelinelabels",
  "labels",
  "timeserieslabels",
  "videolabels",
  "choices",
)


def read(export: Export) -> None:
  """Reads a list of tasks.

  Raises:
    ValueError: the file is not one.
  """
  path = export.request.path
  document = untrusted.read_json(path, max_bytes=MAX_BYTES)
  if isinstance(document, dict):
    document = [document]
  if not isinstance(document, list) or not all(
    isinstance(task, dict) for task in document
  ):
    raise ValueError(f"{path} is not a list of Label Studio's tasks")
  for index, task in enumerate(document):
    _read_task(export, task, f"[{index}]")


def _read_task(export, task, where):
  data = task["data"] if isinstance(task.get("data"), dict) else task
  video = next(
    (data[key] for key in _VIDEO_KEYS if isinstance(data.get(key), str)), None
  )
  if video is None:
    video = next((v for v in data.values() if _is_media(v)), None)
  if video is None:
    export.reject("?", "the task names no video", where=where)
    return
  fps = next((data[key] for key in _FPS_KEYS if key in data), None)
  name = _file_name(video)
  num_before = _num_rows(export)
  for place, result in _results(task, where):
    _read_result(export, name, result, place, fps=fps)
  if _num_rows(export) == num_before:
    export.reject(name, "the task has no labelled segment", where=where)


def _num_rows(export):
  counts = export.file.annotated.get("train", {})
  return counts.get("segments", 0) + len(export.file.rejected)


def _is_media(value):
  return isinstance(value, str) and re.search(
    r"\.(mp4|m4v|mov|mkv|webm|avi|mpe?g|wav|mp3)(\?|$)", value, re.IGNORECASE
  )


def _file_name(address: str) -> str:
  """Returns the name that a file had before its upload."""
  address, _, query = address.partition("?")
  if "local-files" in address and query.startswith("d="):
    address = query.removeprefix("d=").partition("&")[0]
  address = urllib.parse.unquote(address)
  match = _UPLOAD.search(address)
  return address[match.end() :] if match else video_names.base(address)


def _results(task, where):
  """Yields (place, result) of annotations, or of the fields of JSON-MIN."""
  if isinstance(task.get("annotations"), list):
    for index, annotation in enumerate(task["annotations"]):
      if isinstance(annotation, dict) and not annotation.get("was_cancelled"):
        results = annotation.get("result")
        for number, result in enumerate(
          results if isinstance(results, list) else ()
        ):
          yield f"{where}.annotations[{index}].result[{number}]", result
    return
  for key, value in task.items():
    if isinstance(value, list):
      for number, entry in enumerate(value):
        if isinstance(entry, dict):
          yield f"{where}.{key}[{number}]", {"value": entry}


def _read_result(export, video, result, where, *, fps):
  value = result.get("value") if isinstance(result, dict) else None
  if not isinstance(value, dict):
    export.reject(video, "a result without a value", where=where)
    return
  labels = next(
    (value[key] for key in _LABEL_KEYS if isinstance(value.get(key), list)), []
  )
  frames = annotation_file.positive(value.get("framesCount"))
  length_sec = annotation_file.positive(value.get("duration"))
  if frames and length_sec:
    fps = frames / length_sec
  spans = _spans(export, value, fps=fps)
  if not spans or not labels:
    kind = result.get("type") or sorted(value)[:6]
    export.reject(video, f"no labelled segment in {kind!r}", where=where)
    return
  for start, end in spans:
    for label in labels:
      export.add(video, start, end, label, where=where)
  export.length(video, length_sec)


def _spans(export, value, *, fps) -> list[tuple]:
  """Yields (start, end) of a result in seconds; converts frames."""
  ranges = value.get("ranges")
  if isinstance(ranges, list):  # frames
    return [
      _of_frames(export, item.get("start"), item.get("end"), fps)
      for item in ranges
      if isinstance(item, dict)
    ]
  sequence = value.get("sequence")
  if isinstance(sequence, list):  # a rectangle that follows an object
    return _visible(export, sequence, fps, last=value.get("framesCount"))
  if "start" in value and "end" in value:  # sound: seconds
    return [(value["start"], value["end"])]
  return []


def _of_frames(export, start, end, fps):
  rate = export.fps(fps)
  numbers = [annotation_file.number(frame) for frame in (start, end)]
  return tuple(None if n is None else n / rate for n in numbers)


def _visible(export, sequence, fps, *, last) -> list[tuple]:
  """Yields spans of a track: from a key frame to the next disabled one.

  A track that is never disabled lasts to the `last` frame or, if that is
  unknown, to its last key frame.
  """
  frames = [
    (number, bool(item.get("enabled", True)))
    for item in sequence
    if isinstance(item, dict)
    and (number := annotation_file.number(item.get("frame"))) is not None
  ]
  spans, begin = [], None
  for number, enabled in sorted(frames):
    if begin is None:
      begin = number
    if not enabled:
      spans.append((begin, number))
      begin = None
  if begin is not None:
    spans.append((begin, annotation_file.positive(last) or max(frames)[0]))
  return [
    _of_frames(export, start, end, fps) for start, end in spans if end > start
  ]
