"""Reads XML exports of CVAT: tracks and tags."""

import re

from clap_jax.annotations import annotation_file
from tfds_builders.tool_exports import xml_tree
from tfds_builders.tool_exports.export import Export

_STEP = re.compile(r"step\s*=\s*(\d+)")


def read(export: Export) -> None:
  """Reads "CVAT for video 1.1" and the tags of "CVAT for images 1.1".

  A track is a segment while it is not outside; consecutive frames with the same
  tag are one segment.

  Raises:
    ValueError: the file is not such XML.
  """
  path = export.request.path
  root = xml_tree.read(path)
  if root.tag != "annotations":
    raise ValueError(
      f"{path}: the root is <{root.tag}>; CVAT's XML has <annotations>"
    )
  tasks = _Tasks(root)
  for node in root.children:
    if node.tag == "track":
      _read_track(export, node, tasks)
  _read_tags(export, root, tasks)


class _Tasks:
  """The video, frame step and frame rate of each task."""

  def __init__(self, root: xml_tree.Node):
    meta = root.child("meta")
    nodes = [] if meta is None else list(meta.walk())
    self._tasks: dict[str | None, xml_tree.Node] = {}
    for node in nodes:
      if node.tag in ("task", "job"):
        key = node.child("id")
        self._tasks[key.text.strip() if key else None] = node
    self._source = next((n.text for n in nodes if n.tag == "source"), None)

  def video(self, node) -> str | None:
    """Returns the source of the node's task; its name if it has none."""
    task = self._task(node)
    for tag in ("source", "name"):
      found = task.child(tag) if task else None
      if found is not None and found.text.strip():
        return found.text.strip()
      if tag == "source" and self._source and self._source.strip():
        return self._source.strip()
    return None

  def fps(self, node) -> str | None:
    task = self._task(node)
    found = [task.child(tag) for tag in ("fps", "frame_rate")] if task else []
    return next((f.text.strip() for f in found if f is not None), None)

  def step(self, node) -> int:
    """Returns the number of frames from one annotated frame to the next."""
    task = self._task(node)
    found = task.child("frame_filter") if task else None
    match = _STEP.search(found.text) if found is not None else None
    return max(1, int(match[1])) if match else 1

  def _task(self, node):
    key = node.get("task_id")
    if key in self._tasks:
      return self._tasks[key]
    return next(iter(self._tasks.values())) if len(self._tasks) == 1 else None


def _frame(node, name="frame") -> int | None:
  value = annotation_file.number(node.get(name))
  return None if value is None or value < 0 else int(value)


def _read_track(export, track, tasks):
  video, label = tasks.video(track), track.get("label")
  where = f"line {track.line}, track {track.get('id')}"
  shapes = [
    (_frame(shape), shape.get("outside") == "1")
    for shape in track.children
    if shape.get("frame") is not None
  ]
  if not shapes or any(frame is None for frame, _ in shapes):
    export.reject(video, "a track without numbered frames", where=where)
    return
  rate, step = export.fps(tasks.fps(track)), tasks.step(track)
  spans, begin, last = [], None, None
  for frame, is_outside in sorted(shapes):
    if is_outside and begin is not None:
      spans.append((begin, frame))
      begin = None
    elif not is_outside and begin is None:
      begin = frame
    last = frame
  if begin is not None:
    spans.append((begin, last + step))
  if not spans:
    export.reject(video, "the track is outside in every frame", where=where)
  for start, end in spans:
    export.add(video, start / rate, end / rate, label, where=where)


def _read_tags(export, root, tasks):
  """Adds runs of images or frames with the same tag as segments."""
  found: dict[tuple, list[tuple[int, int]]] = {}
  tasks_of = {}
  for node in root.children:
    if node.tag not in ("image", "tag", "frame"):
      continue
    frame = _frame(node, "frame")
    frame = _frame(node, "id") if frame is None else frame
    tags = (
      [node]
      if node.tag == "tag"
      else [n for n in node.children if n.tag == "tag"]
    )
    video = tasks.video(node)
    for tag in tags:
      if frame is None:
        export.reject(
          video, "a tag without a numbered frame", where=f"line {tag.line}"
        )
        continue
      key = (video, tag.get("label"))
      tasks_of[key] = node
      found.setdefault(key, []).append((frame, tag.line))
  for (video, label), frames in found.items():
    node = tasks_of[video, label]
    rate, step = export.fps(tasks.fps(node)), tasks.step(node)
    for (start, line), end in _runs(sorted(frames), step):
      export.add(
        video, start / rate, (end + step) / rate, label, where=f"line {line}"
      )


def _runs(frames, step):
  """Yields ((first frame, its line), last frame) of runs without a gap."""
  first = previous = frames[0]
  for frame in frames[1:]:
    if frame[0] > previous[0] + step:
      yield first, previous[0]
      first = frame
    previous = frame
  yield first, previous[0]
