"""TFDS builder of trimmed clips, unchanged or joined into recordings."""

import pathlib
from collections.abc import Callable

from clap_jax.annotations import source_files
from tfds_builders import collection, transcoding, video_builder
from tfds_builders.trimmed import (
  clips,
  layouts,
  recordings,
  splits,
  templates,
)
from tfds_builders.trimmed.settings import TrimmedSettings

Builder = video_builder.make(
  __name__,
  "Trimmed clips of one action each, or untrimmed recordings joined of them.",
)


def make_plan(
  folder: pathlib.Path,
  files: source_files.SourceFiles | None,
  settings: TrimmedSettings,
  *,
  joined_folder: pathlib.Path,
  limits: transcoding.StoreLimits,
  workers: int,
  subset: int | None,
  selection_percent: int,
  on_progress: Callable[[int, int], None],
) -> collection.Plan:
  """Reads the clips and their splits; writes recordings if configured.

  Args:
    files: annotation files; None for folders named by class.
    settings: see `TrimmedSettings`.
    joined_folder: output folder of recordings and their annotations.
    workers: number of recordings to write at a time.
    subset: maximum number of clips, or recordings, per split.
    selection_percent: percentage of the groups of train to move to `selection`.
    on_progress: called with (recordings written, total).

  Raises:
    ValueError: inputs or settings cannot be used.
    FileNotFoundError: an input is missing.
  """
  captions = templates.load(settings.captions) if settings.captions else None
  videos = collection.VideoFiles(folder, any_case=not layouts.is_youtube(files))
  listed = layouts.read(files, videos.by_name, fold=settings.fold)
  clip_of = _by_file(listed, videos)
  splits.assign(listed, settings, selection_percent=selection_percent)
  if captions is not None:
    templates.apply(captions, listed)
  file = clips.to_annotations(listed, background=settings.background)
  file.sources = files.used if files else []
  plan = collection.make_plan(
    file,
    videos,
    subset=None if settings.join else subset,
    make_id=clips.unique_ids(listed.clips),
  )
  if not settings.join:
    return plan
  arranged = recordings.arrange(plan.items, clip_of, settings)
  arranged = {split: group[:subset] for split, group in arranged.items()}
  done = recordings.write(
    arranged,
    joined_folder,
    limits=limits,
    workers=workers,
    on_progress=on_progress,
  )
  return recordings.make_plan(plan, arranged, done, joined_folder)


def _by_file(
  listed: clips.ClipList, videos: collection.VideoFiles
) -> dict[pathlib.Path, clips.Clip]:
  """Returns the existing clips; rejects a second label of a file."""
  found: dict[pathlib.Path, clips.Clip] = {}
  for name, clip in list(listed.clips.items()):
    try:
      path = videos.find(name)
    except ValueError:  # several files: noted in the manifest later
      continue
    if path is None:
      continue
    known = found.setdefault(path.absolute(), clip)
    if known.label != clip.label:
      del listed.clips[name]
      listed.file.reject(
        clip.where,
        name,
        f"label {clip.label!r}, but {known.label!r} at {known.where} as "
        f"{known.name}",
        split=clip.subset,
      )
  return found
