"""TFDS builder of ActivityNet 1.3, alone or with ActivityNet Captions.

`localization` has the official splits, `captions` those of the captions: val_1
and val_2 are two annotators' captions of the same validation videos; a video of
both is in both splits.
"""

import pathlib

from clap_jax.annotations import annotation_file, own_files, source_files
from clap_jax.annotations.annotation_file import AnnotationFile
from clap_jax.annotations.source_files import SourceFiles
from tfds_builders import names, video_builder

CAPTION_SPLITS = ("train", "val_1", "val_2")


Builder = video_builder.make(
  __name__,
  "Untrimmed web videos with segments of 200 activities, and captions.",
  configs=names.ANNOTATED["activitynet"],
)


def read(files: SourceFiles, config: str) -> AnnotationFile:
  """Reads the annotation files of a config."""
  file = own_files.read_json(files.find("activity_net.v1-3*.json"))
  _expect_frames(file, files.find_optional("video_info.csv"))
  if config == "captions":
    return _with_captions(file, files)
  return file


def _expect_frames(file, path: pathlib.Path | None):
  if path is None:
    return
  rows = source_files.load_rows(path, columns=("video", "numFrame"))
  for _, row in rows:
    entry = file.entries.get(row["video"].removeprefix("v_"))
    frames = annotation_file.positive(row["numFrame"])
    if entry and frames:
      entry.expected_frames = round(frames)


def _with_captions(labels, files):
  """One entry per video and caption split, with its segments."""
  file = AnnotationFile(class_names=labels.labels())
  rejected: dict[str, list[dict]] = {}
  for note in labels.rejected:
    rejected.setdefault(note["video"], []).append(note)
  for split in CAPTION_SPLITS:
    path = files.find(
      f"activitynet_captions/{split}.json",
      f"captions/{split}.json",
      f"{split}.json",
    )
    for key, value in source_files.load_json(path).items():
      _read_video(file, labels, rejected, split=split, key=key, value=value)
  return file


def _read_video(file, labels, rejected, *, split, key, value):
  name, where = key.removeprefix("v_"), f"{split}.{key[:100]}"
  entry = file.entry(name, split, where, key=f"{split}/{name}")
  known = labels.entries.get(name)
  if known is not None:
    entry.segments = list(known.segments)
    entry.expected_frames = known.expected_frames
    file.rejected += [
      {**note, "split": split} for note in rejected.get(name, [])
    ]
    count = len(known.segments) + len(rejected.get(name, []))
    file.count_of(entry, "segments", count)
  entry.expected_duration_sec = annotation_file.positive(value.get("duration"))
  times, texts = value.get("timestamps"), value.get("sentences")
  if not isinstance(times, list) or not isinstance(texts, list):
    file.reject(where, name, "no timestamps and sentences", split=split)
    return
  if len(times) != len(texts):
    file.reject(
      where,
      name,
      f"{len(times)} timestamps for {len(texts)} sentences",
      split=split,
    )
    return
  for index, (times_of_one, text) in enumerate(zip(times, texts, strict=True)):
    file.add(
      entry,
      "captions",
      span=(*annotation_file.pair(times_of_one), text),
      where=f"{where}[{index}]",
    )
