"""TFDS builder of Ego4D's moments (MQ) and natural-language queries (NLQ).

A video is a clip of the benchmark, called by its clip_uid.
"""

from collections.abc import Iterator

from clap_jax.annotations import annotation_file, source_files
from clap_jax.annotations.annotation_file import AnnotationFile
from clap_jax.annotations.source_files import SourceFiles
from tfds_builders import names, video_builder

_FILES = {  # config -> split -> file; the test files hold no answers
  "mq": {
    "train": "moments_train.json",
    "validation": "moments_val.json",
    "test": "moments_test_unannotated.json",
  },
  "nlq": {
    "train": "nlq_train.json",
    "validation": "nlq_val.json",
    "test": "nlq_test_unannotated.json",
  },
}
_OPTIONAL = ("test",)


Builder = video_builder.make(
  __name__,
  "Egocentric clips of minutes with segments of activities or with questions.",
  configs=names.ANNOTATED["ego4d"],
)


def read(files: SourceFiles, config: str) -> AnnotationFile:
  """Reads {moments,nlq}_{train,val}.json and, if found, the test file."""
  file = AnnotationFile(class_names=[] if config == "nlq" else None)
  add = {"mq": _add_moments, "nlq": _add_queries}[config]
  for split, name in _FILES[config].items():
    find = files.find_optional if split in _OPTIONAL else files.find
    path = find(name)
    for clip, where in _clips(file, path, split) if path else ():
      add(file, clip, where, split=split)
  return file


def _clips(file, path, split) -> Iterator[tuple[dict, str]]:
  """(clip, place) of all videos; others are rejected.

  Raises:
    ValueError: there is no list of videos.
  """
  document = source_files.load_json(path)
  videos = document.get("videos") if isinstance(document, dict) else None
  if not isinstance(videos, list):
    raise ValueError(f"{path} is not an object with a list of videos")
  for number, video in enumerate(videos):
    clips = video.get("clips") if isinstance(video, dict) else None
    for index, clip in enumerate(clips if isinstance(clips, list) else [None]):
      where = f"{path.name} videos[{number}].clips[{index}]"
      name = clip.get("clip_uid") if isinstance(clip, dict) else None
      if isinstance(name, str) and name:
        yield clip, where
      else:
        file.reject(where, "", "no clip with a clip_uid", split=split)


def _entry(file, clip, where, *, split):
  entry = file.entry(clip["clip_uid"], split, where)
  ends = [
    annotation_file.number(clip.get(f"video_{side}_sec"))
    for side in ("start", "end")
  ]
  if None not in ends and ends[1] > ends[0]:
    entry.expected_duration_sec = ends[1] - max(ends[0], 0.0)
  return entry


def _items(value, key) -> list[dict]:
  """The objects of the lists under `key` of all annotations of a clip."""
  found = []
  for annotation in value.get("annotations") or ():
    own = annotation.get(key) if isinstance(annotation, dict) else None
    own = own if isinstance(own, list) else []
    found += [item for item in own if isinstance(item, dict)]
  return found


def _add_moments(file, clip, where, *, split) -> None:
  """Every annotator's labels of the taxonomy's primary activities."""
  entry = _entry(file, clip, where, split=split)
  for index, item in enumerate(_items(clip, "labels")):
    if not item.get("primary", True):
      continue
    span = (item.get("start_time"), item.get("end_time"), item.get("label"))
    file.add(entry, "segments", span=span, where=f"{where}.labels[{index}]")


def _add_queries(file, clip, where, *, split) -> None:
  entry = _entry(file, clip, where, split=split)
  for index, item in enumerate(_items(clip, "language_queries")):
    file.count_of(entry, "queries")
    if split in _OPTIONAL:
      continue  # a question without an answer
    span = tuple(item.get(f"clip_{end}_sec") for end in ("start", "end"))
    file.add(
      entry,
      "captions",
      span=(*span, item.get("query")),
      where=f"{where}.language_queries[{index}]",
    )
