"""Defines trimmed clips and their annotations."""

import collections
import dataclasses
import hashlib
from collections.abc import Callable, Iterable

from clap_jax.annotations import annotation_file
from clap_jax.annotations.annotation_file import WHOLE_VIDEO_SEC
from clap_jax.storage import video_names
from tfds_builders import packing

_MAX_ID_LENGTH = 128
_HASH_DIGITS = 8


@dataclasses.dataclass
class Clip:
  """A clip that shows one action from start to end.

  `label` is "" if the clip has none, `subset` None if no file states one. Clips
  of one `group` (a source video, a person) stay in one split.
  """

  name: str  # path below the folder of videos, or a name
  label: str
  where: str
  subset: str | None = None
  group: str = ""
  attributes: dict[str, str] = dataclasses.field(default_factory=dict)
  captions: list[str] = dataclasses.field(default_factory=list)

  def values(self) -> dict[str, str]:
    """Returns the attributes with label and group."""
    own = {"label": self.label, "group": self.group}
    return {key: value for key, value in own.items() if value} | self.attributes


@dataclasses.dataclass
class ClipList:
  """Clips by name; `file` has rejected rows and the order of classes."""

  clips: dict[str, Clip] = dataclasses.field(default_factory=dict)
  file: annotation_file.AnnotationFile = dataclasses.field(
    default_factory=annotation_file.AnnotationFile
  )

  def add(self, clip: Clip) -> None:
    """Adds a clip, or captions of a known clip; rejects contradictions."""
    try:
      if clip.label:
        clip.label = _text(clip.label, clip.where)
      clip.captions = [_text(text, clip.where) for text in clip.captions]
    except annotation_file.SpanError as error:
      self.file.reject(clip.where, clip.name, str(error), split=clip.subset)
      return
    known = self.clips.setdefault(clip.name, clip)
    if known is clip:
      return
    for key in ("label", "subset", "group"):
      mine, other = getattr(clip, key), getattr(known, key)
      if mine != other:
        self.file.reject(
          clip.where,
          clip.name,
          f"{key} {mine!r}, but {other!r} at {known.where}",
          split=known.subset,
        )
        return
    if not clip.captions:
      self.file.reject(
        clip.where, clip.name, f"the same as {known.where}", split=known.subset
      )
    known.captions += [t for t in clip.captions if t not in known.captions]

  def check_groups(self) -> None:
    """Refuses lists that split a group.

    Raises:
      ValueError: clips of one group are in two splits.
    """
    first: dict[str, Clip] = {}
    for clip in self.clips.values():
      known = first.setdefault(clip.group, clip) if clip.group else clip
      if known.subset != clip.subset:
        raise ValueError(
          f"{clip.where}: {clip.name} of the group {clip.group!r} is in "
          f"{clip.subset}, but {known.name} of the same group is in "
          f"{known.subset} at {known.where}; a group belongs to one split"
        )


def _text(text: str, where: str) -> str:
  return annotation_file.make_span(0.0, WHOLE_VIDEO_SEC, text, where).text


def to_annotations(
  listed: ClipList, *, background: Iterable[str]
) -> annotation_file.AnnotationFile:
  """Converts clips to videos with a segment and captions from start to end.

  Args:
    listed: clips whose splits are assigned.
    background: classes whose clips get no segment.

  Raises:
    ValueError: one of these classes has no clip, or they are all classes.
  """
  file, background = listed.file, set(background)
  labels = {clip.label for clip in listed.clips.values()} - {""}
  unknown = sorted(background - labels)
  if unknown:
    raise ValueError(
      f"--background: no clip is of the class {unknown[0]!r}; the classes are "
      f"{', '.join(sorted(labels)[:20])}"
    )
  if labels and not labels - background:
    raise ValueError("--background names every class; leave out at least one")
  for clip in listed.clips.values():
    entry = file.entry(clip.name, clip.subset, clip.where)
    whole = (0.0, WHOLE_VIDEO_SEC)
    if clip.label and clip.label not in background:
      file.add(entry, "segments", span=(*whole, clip.label), where=clip.where)
    for text in clip.captions:
      file.add(entry, "captions", span=(*whole, text), where=clip.where)
  if file.class_names is not None:
    file.class_names = [n for n in file.class_names if n not in background]
  return file


def unique_ids(names: Iterable[str]) -> Callable[[str], str]:
  """Returns a function from names to unique ids; see `packing.id_from_name`.

  A hash is added to equal ids, such as of "(a)b.avi" and "a_b.avi", and to
  names longer than an id.
  """
  slugs = {name: video_names.slug(video_names.stem(name)) for name in names}
  counts = collections.Counter(slugs.values())

  def make_id(name: str) -> str:
    slug = slugs.get(name)
    if slug is None or not packing.is_relative_name(name):
      return packing.id_from_name(name)
    if counts[slug] > 1 or len(slug) > _MAX_ID_LENGTH:
      digest = hashlib.sha256(name.encode()).hexdigest()[:_HASH_DIGITS]
      slug = f"{slug[: _MAX_ID_LENGTH - _HASH_DIGITS - 1]}_{digest}"
    return packing.check_id(slug)

  return make_id


def path_part(text: str) -> str:
  """Converts a text to one part of a relative path."""
  return text.replace("/", "_").replace("\\", "_").strip(".") or "_"
