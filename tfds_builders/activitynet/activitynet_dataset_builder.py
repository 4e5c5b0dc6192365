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
  path = files.find("activity_net.v1-3*.json")
  file = own_files.read_json(path, AnnotationFile())
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
  """Returns an entry per video and caption split, with its segments."""
  file = AnnotationFile(
    class_names=labels.labels(),
    name_of=lambda name: name.removeprefix("v_"),
    splits_share_videos=True,
  )
  for split in CAPTION_SPLITS:
    path = files.find(
      f"activitynet_captions/{split}.json",
      f"captions/{split}.json",
      f"{split}.json",
    )
    own_files.read_json(path, file, subset=split)
  rejected: dict[str, list[dict]] = {}
  for note in labels.rejected:
    rejected.setdefault(note["video"], []).append(note)
  for entry in file.entries.values():
    known = labels.entries.get(entry.name)
    if known is not None:
      notes = rejected.get(entry.name, [])
      entry.segments = list(known.segments)
      entry.expected_frames = known.expected_frames
      file.rejected += [{**note, "split": entry.subset} for note in notes]
      file.count_of(entry, "segments", len(known.segments) + len(notes))
  return file
