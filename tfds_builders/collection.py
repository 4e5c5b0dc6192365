"""Matches videos with annotations.

The plan is a pure function of the annotation files and of the names, sizes and
times of the video files. Videos that cannot be decoded are detected later, by
shard.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Sequence

from clap_jax.annotations.annotation_file import (
  WHOLE_VIDEO_SEC,
  AnnotationFile,
  Span,
)
from clap_jax.media import formats
from clap_jax.storage import locations, video_names
from tfds_builders import packing

MIN_SPAN_SEC = 0.1  # minimum length of a clipped span
_MAX_FPS = 240.0  # of videos annotated by frame
_NUM_DESCRIBED = 3
CLIP_SLACK_SEC = 0.1  # rounding of a video's end, not reported


@dataclasses.dataclass(frozen=True)
class Item:
  """A video to pack.

  `version` changes with the content of the file, as far as a listing shows it.
  `facts` is the metadata of a file to pack unchanged, as `packing.make_record`
  takes it; None for a video to transcode.
  """

  id: str
  split: str
  path: locations.Location
  segments: tuple[Span, ...]
  captions: tuple[Span, ...]
  ambiguous: tuple[Span, ...] = ()
  expected_duration_sec: float | None = None
  expected_frames: int | None = None
  facts: dict | None = None
  version: tuple[int | str, ...] = ()


class NothingUsableError(ValueError):
  """Raised if no video, or no span of any video, can be used.

  Attributes:
    manifests: manifest of each split, with every reason.
  """

  def __init__(self, message: str, manifests: dict[str, dict]):
    super().__init__(message)
    self.manifests = manifests


@dataclasses.dataclass
class Plan:
  """Usable videos in record order, and manifests of the others."""

  items: dict[str, list[Item]]  # per split
  manifests: dict[str, dict]
  class_names: list[str]
  unlisted: list[str]  # video files that the annotations do not name


class VideoFiles:
  """The video files below a folder."""

  def __init__(self, folder: locations.Location, *, any_case: bool = False):
    """Lists the files; `any_case` as in `video_names.NameIndex`."""
    if not folder.is_dir():
      raise FileNotFoundError(f"no folder of videos at {folder}")
    self.folder = folder
    versions = formats.versions_of_videos(folder)
    self.by_name = {name: folder / name for name in versions}
    self.versions = {folder / name: versions[name] for name in versions}
    self._index = video_names.NameIndex(self.by_name, any_case=any_case)

  def find(self, name: str) -> locations.Location | None:
    """Returns the file that an annotation names, or None; see `video_names`.

    Raises:
      ValueError: several files have that name, in one or several folders.
    """
    found = self._index.find(name)
    return None if found is None else self.by_name[found]


def fit_spans(
  spans: tuple[Span, ...] | list[Span],
  duration_sec: float,
  *,
  video_id: str,
  notes: dict,
) -> list[tuple[float, float, str]]:
  """Clips spans to [0, duration]; notes repaired and rejected ones."""
  kept = []
  for span in spans:
    start, end = max(0.0, span.start_sec), min(duration_sec, span.end_sec)
    note = {"id": video_id, "where": span.where}
    if end - start < MIN_SPAN_SEC and end - start < (
      span.end_sec - span.start_sec - 1e-6
    ):
      notes["rejected"].append(
        {
          **note,
          "reason": (
            f"[{span.start_sec}, {span.end_sec}] s: less than "
            f"{MIN_SPAN_SEC} s of it is within the {duration_sec:.2f} s video"
          ),
        }
      )
      continue
    beyond = max(start - span.start_sec, span.end_sec - end)
    whole = span.end_sec >= WHOLE_VIDEO_SEC
    if beyond > CLIP_SLACK_SEC and not whole:
      notes["repaired"].append(
        {
          **note,
          "reason": (
            f"[{span.start_sec}, {span.end_sec}] s clipped to "
            f"[{start:.2f}, {end:.2f}] s"
          ),
        }
      )
    kept.append((start, end, span.text))
  return kept


def record_order(video_id: str, split: str) -> int:
  """Returns the position of a video in its split, as TFDS shuffles."""
  digest = hashlib.md5(f"{split}{video_id}".encode(), usedforsecurity=False)
  return int(digest.hexdigest(), 16)


def _assign_ids(file, videos, manifest_of, make_id):
  """Yields (entry, id, path) of usable entries; notes others in manifests."""
  root, taken, tried = videos.folder.resolve(), {}, []
  for entry, path in _with_files(file, videos, manifest_of, make_id):
    manifest = manifest_of(entry.subset)
    file_name = locations.name_below(path, videos.folder)
    is_own = packing.is_relative_name(entry.name) and video_names.is_own(
      entry.name, file_name
    )
    try:
      video_id = make_id(entry.name if is_own else file_name)
    except ValueError as error:
      _refuse(manifest, entry, str(error))
      continue
    if not path.resolve().is_relative_to(root):
      manifest["corrupt"].append(
        {"id": video_id, "reason": "a link that leaves the videos' folder"}
      )
    elif (entry.subset, video_id) in taken:
      manifest["corrupt"].append(
        {
          "id": video_id,
          "reason": (
            f"{entry.name!r} and {taken[entry.subset, video_id]!r} give the "
            "same id; rename one of them"
          ),
        }
      )
    else:
      taken[entry.subset, video_id] = entry.name
      tried.append((entry, video_id, path))
  return tried


def _refuse(manifest, entry, reason):
  manifest["corrupt"].append(
    {"id": entry.name[:128], "reason": reason, "where": entry.where}
  )


def _with_files(file, videos, manifest_of, make_id):
  """Yields (entry, path) of the existing videos, each file for one name.

  Names of one file are one video if they differ only in folders, extension or
  case; if their folders contradict each other, none gets the file.
  """
  found: dict[locations.Location, list] = {}
  for entry in file.entries.values():
    manifest = manifest_of(entry.subset)
    try:
      path = videos.find(entry.name)
      video_id = None if path else make_id(entry.name)
    except ValueError as error:
      _refuse(manifest, entry, str(error))
      continue
    if path is None:
      manifest["missing"].append(video_id)
    else:
      found.setdefault(path, []).append(entry)
  used = []
  for path, entries in found.items():
    file_name = locations.name_below(path, videos.folder)
    used += [
      (entry, path)
      for entry in _one_per_split(file, entries, file_name, manifest_of)
    ]
  order = {id(entry): n for n, entry in enumerate(file.entries.values())}
  return sorted(used, key=lambda pair: order[id(pair[0])])


def _one_per_split(file, entries, file_name, manifest_of):
  """Returns the entries of one file, merged by split."""
  names = {entry.name for entry in entries}
  stem = video_names.stem(file_name)
  exact = [n for n in names if video_names.stem(n) == stem]
  kept: dict[str, object] = {}
  for entry in entries:
    others = names - {entry.name}
    strangers = [n for n in others if not video_names.same_video(entry.name, n)]
    if strangers and entry.name not in exact:
      _refuse(
        manifest_of(entry.subset),
        entry,
        f"{entry.name[:80]!r} and {min(strangers)[:80]!r} both lead to "
        f"{file_name}; name it by its path below the folder of videos",
      )
    elif entry.subset in kept:
      file.merge(kept[entry.subset], entry)
    elif others and kept and entry.name not in {e.name for e in kept.values()}:
      known = next(iter(kept.values()))
      _refuse(
        manifest_of(entry.subset),
        entry,
        f"{file_name} is in {entry.subset} here and, as {known.name[:80]!r}, "
        f"in {known.subset} at {known.where}: a video belongs to one split",
      )
    else:
      kept[entry.subset] = entry
  return kept.values()


def make_plan(
  file: AnnotationFile,
  videos: VideoFiles,
  *,
  subset: int | None,
  selection_percent: int = 0,
  make_id: Callable[[str], str] = packing.id_from_name,
) -> Plan:
  """Plans the annotated videos that exist, in record order.

  Args:
    subset: maximum number of existing videos per split, the first ones.
    selection_percent: percentage of the videos of `train` to move to
      `selection`, so that nothing is selected on the reported split; the ids
      determine the choice.
    make_id: maps an entry's name to a record id; raises a ValueError if unsafe.

  Raises:
    NothingUsableError: no video exists, or all times are in another unit.
    ValueError: selection_percent leaves a split empty.
  """
  manifests: dict[str, dict] = {}
  if selection_percent:
    _carve_selection(file, selection_percent)

  def manifest_of(split):
    return manifests.setdefault(split, packing.new_manifest(split))

  tried = _assign_ids(file, videos, manifest_of, make_id)
  used = {path for _, _, path in tried}
  items: dict[str, list[Item]] = {}
  for entry, video_id, path in tried:
    group = items.setdefault(entry.subset, [])
    if subset is None or len(group) < subset:
      group.append(_make_item(entry, video_id, path, videos.versions[path]))
  _describe_annotations(file, items, manifest_of)
  if not items:
    raise NothingUsableError(
      f"no usable video: the annotations name {len(file.entries)}, and the "
      f"folder {videos.folder} holds {len(videos.by_name)}; reasons: "
      f"{describe_losses(manifests)}",
      manifests,
    )
  lacking = [split for split in ("train", "selection") if split not in items]
  if selection_percent and lacking:
    raise ValueError(
      f"selection_percent {selection_percent} leaves {lacking[0]} without a "
      f"video: of those it would have, none is in {videos.folder}."
    )
  check_unit(
    (
      (item.id, item.expected_duration_sec, (*item.segments, *item.captions))
      for group in items.values()
      for item in group
    ),
    manifests,
  )
  for split, group in items.items():
    group.sort(key=lambda item: record_order(item.id, split))
  unlisted = [n for n, path in videos.by_name.items() if path not in used]
  manifests = dict(sorted(manifests.items()))
  return Plan(dict(sorted(items.items())), manifests, file.labels(), unlisted)


def _carve_selection(file, percent):
  if not 0 < percent < 100:
    raise ValueError(f"selection_percent is {percent}; expected 1 to 99")
  if any(entry.subset == "selection" for entry in file.entries.values()):
    raise ValueError(
      "the annotations have a selection split; leave selection_percent out"
    )
  train = [e for e in file.entries.values() if e.subset == "train"]
  ranks = [record_order(entry.name, "selection") % 100 for entry in train]
  chosen = [e for e, rank in zip(train, ranks, strict=True) if rank < percent]
  if not chosen or len(chosen) == len(train):
    first, last = (min(ranks) + 1, max(ranks)) if train else (1, 0)
    raise ValueError(
      f"selection_percent {percent} would move {len(chosen)} of the "
      f"{len(train)} videos of train to selection; both need at least one. "
      + (
        f"Expected {first} to {last} for these videos."
        if first <= last
        else "Leave selection_percent out, or name the splits in the "
        "annotations."
      )
    )
  for entry in chosen:
    file.move(entry, "selection")


def _make_item(entry, video_id, path, version):
  return Item(
    video_id,
    entry.subset,
    path.absolute(),
    tuple(entry.segments),
    tuple(entry.captions),
    tuple(entry.ambiguous),
    entry.expected_duration_sec,
    entry.expected_frames,
    version=version,
  )


def _describe_annotations(file, items, manifest_of):
  """Adds the content and the problems of annotation files to the manifests."""
  for split, counts in file.annotated.items():
    manifest_of(split)["annotated"] = counts
  for note in file.excluded:
    manifest_of(note["split"])["excluded"].append(
      {"id": note["id"], "reason": note["reason"]}
    )
  for note in file.rejected:
    manifest_of(note["split"] or min(items, default="train"))[
      "rejected"
    ].append(
      {"id": note["video"], "where": note["where"], "reason": note["reason"]}
    )
  for split in set(file.annotated) | set(items):
    manifest_of(split)["sources"]["annotations"] = file.sources


def check_unit(
  videos: Iterable[tuple[str, float | None, Sequence[Span]]],
  manifests: dict[str, dict],
) -> None:
  """Refuses times in frames or milliseconds instead of seconds.

  Times are refused if every span ends, and half of them begin, beyond their
  video; a single video with such spans is reported as a loss.

  Args:
    videos: (id, length, spans); videos of unknown length are left out.

  Raises:
    NothingUsableError: the times look like another unit, which it names.
  """
  spans = [
    (span, duration_sec, video_id)
    for video_id, duration_sec, own in videos
    if duration_sec
    for span in own
    if span.end_sec < WHOLE_VIDEO_SEC
  ]
  if not spans or any(span.end_sec <= length for span, length, _ in spans):
    return
  num_after = sum(span.start_sec >= length for span, length, _ in spans)
  if 2 * num_after < len(spans):
    return
  span, length, video_id = max(spans, key=lambda s: s[0].end_sec / s[1])
  is_fine = span.end_sec > _MAX_FPS * length  # finer than frames can be
  unit = "milliseconds" if is_fine else "frame numbers"
  raise NothingUsableError(
    f"the times look like {unit}, not seconds: all {len(spans)} spans end "
    f"after their videos, e.g. {span.where}: [{span.start_sec:g}, "
    f"{span.end_sec:g}] in {video_id}, which lasts {length:.2f} s. Convert "
    "them to seconds"
    + (" (columns start_ms and end_ms are read as milliseconds)" * is_fine),
    manifests,
  )


def list_losses(manifests: dict[str, dict]) -> list[str]:
  """Lists every omitted span and video with its place and the reason."""
  losses = []
  for split, manifest in manifests.items():
    for key in ("rejected", "corrupt"):
      for note in manifest[key]:
        where = f"{note['where']}: " if note.get("where") else ""
        losses.append(f"{where}{note['id'] or 'a row'}: {note['reason']}")
    losses += [
      f"{name}: no video file of that name ({split})"
      for name in manifest["missing"]
    ]
  return losses


def classes_not_in_train(manifests) -> dict[str, list[str]]:
  """Returns classes by split with segments in it and none in train."""
  if "train" not in manifests:
    return {}
  trained = set(manifests["train"]["segments_per_class"])
  found = {
    split: sorted(set(manifest["segments_per_class"]) - trained)
    for split, manifest in manifests.items()
  }
  return {split: classes for split, classes in found.items() if classes}


def describe_losses(manifests: dict[str, dict]) -> str:
  """Describes the first reasons and their number for an error message."""
  losses = list_losses(manifests)
  first = "; ".join(losses[:_NUM_DESCRIBED]) or "none"
  more = len(losses) - _NUM_DESCRIBED
  missing = sum(len(m["missing"]) for m in manifests.values())
  return (
    f"{first}{f'; and {more} more' if more > 0 else ''} ({missing} missing)"
  )
