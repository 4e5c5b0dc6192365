"""Brings videos and annotations together: what is to be built, and from what.

The plan is a pure function of the annotation files and of the names, sizes and
times of the video files. Which videos can be decoded turns out later, shard by
shard.
"""

import dataclasses
import hashlib
import pathlib
from collections.abc import Callable

from tfds_builders import packing
from tfds_builders.annotations import WHOLE_VIDEO_SEC, AnnotationFile, Span

VIDEO_SUFFIXES = (
  ".mp4",
  ".m4v",
  ".mov",
  ".mkv",
  ".webm",
  ".avi",
  ".flv",
  ".ogv",
  ".mpg",
  ".mpeg",
  ".ts",
  ".wmv",
)
MIN_SPAN_SEC = 0.1  # what has to remain of a clipped span
CLIP_SLACK_SEC = 0.1  # rounding of a video's end, not worth a mention


@dataclasses.dataclass(frozen=True)
class Item:
  """One video to be packed.

  `facts` are those of a file that is packed as it is, in the words of
  `packing.make_record`; None for a video that has to be transcoded.
  """

  id: str
  split: str
  path: pathlib.Path
  segments: tuple[Span, ...]
  captions: tuple[Span, ...]
  ambiguous: tuple[Span, ...] = ()
  expected_duration_sec: float | None = None
  expected_frames: int | None = None
  facts: dict | None = None


@dataclasses.dataclass
class Plan:
  """What can be tried, in record order, and manifests of what cannot."""

  items: dict[str, list[Item]]  # per split
  manifests: dict[str, dict]
  class_names: list[str]
  unlisted: list[str]  # video files that the annotations do not name


class VideoFiles:
  """The video files below a folder."""

  def __init__(self, folder: pathlib.Path):
    if not folder.is_dir():
      raise FileNotFoundError(f"no folder of videos at {folder}")
    self.folder = folder
    self.by_name: dict[str, pathlib.Path] = {}
    self._by_stem: dict[str, list[pathlib.Path]] = {}
    self._by_base: dict[str, list[pathlib.Path]] = {}
    for path in sorted(folder.rglob("*")):
      if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file():
        name = path.relative_to(folder).as_posix()
        self.by_name[name] = path
        stem = name[: -len(path.suffix)]
        self._by_stem.setdefault(stem, []).append(path)
        self._by_base.setdefault(path.stem, []).append(path)

  def find(self, name: str) -> pathlib.Path | None:
    """The file an annotation names, or None.

    By its relative name, the same without ending, that with `v_` before it,
    or by its base name in any folder.

    Raises:
      ValueError: if several files have that name, in one folder or in several.
    """
    if name in self.by_name:
      return self.by_name[name]
    stem, suffix = pathlib.PurePosixPath(name).stem, name[-5:]
    is_file_name = any(suffix.lower().endswith(s) for s in VIDEO_SUFFIXES)
    bases = (name, f"v_{name}", *([stem] if is_file_name else []))
    for found in (
      *(self._by_stem.get(base, []) for base in bases[:2]),
      *(self._by_base.get(base, []) for base in bases),
    ):
      if len(found) > 1:
        names = [p.relative_to(self.folder).as_posix() for p in found[:3]]
        raise ValueError(f"several files of that name: {', '.join(names)}")
      if found:
        return found[0]
    return None


def fit_spans(
  spans: tuple[Span, ...] | list[Span],
  duration_sec: float,
  *,
  video_id: str,
  notes: dict,
) -> list[tuple[float, float, str]]:
  """Clips spans to [0, duration]; notes what was repaired or rejected."""
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
  """Where a video stands in its split: ascending, as TFDS shuffles."""
  digest = hashlib.md5(f"{split}{video_id}".encode(), usedforsecurity=False)
  return int(digest.hexdigest(), 16)


def _assign_ids(file, videos, manifest_of, make_id):
  """(entry, id, path) of what can be tried; the rest goes to manifests."""
  root, taken, tried = videos.folder.resolve(), {}, []
  for entry in file.entries.values():
    manifest = manifest_of(entry.subset)
    try:
      video_id = make_id(entry.name)
    except ValueError as error:
      manifest["corrupt"].append(
        {"id": entry.name[:128], "reason": str(error), "where": entry.where}
      )
      continue
    try:
      path = videos.find(entry.name)
    except ValueError as error:
      manifest["corrupt"].append({"id": video_id, "reason": str(error)})
      continue
    if path is None:
      manifest["missing"].append(video_id)
    elif not path.resolve().is_relative_to(root):
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


def make_plan(
  file: AnnotationFile,
  videos: VideoFiles,
  *,
  subset: int | None,
  selection_percent: int = 0,
  make_id: Callable[[str], str] = packing.id_from_name,
) -> Plan:
  """Which of the annotated videos are there, in record order.

  Args:
    file: the annotations.
    videos: the files.
    subset: at most that many present videos per split, the first named.
    selection_percent: of the videos of `train` that go to `selection`, so
      that nothing is ever chosen on the split that is reported; which ones
      follows from their ids alone.
    make_id: record id of an entry's name; raises ValueError for unsafe names.

  Raises:
    ValueError: if no video is there.
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
      group.append(_make_item(entry, video_id, path))
  if not items:
    raise ValueError(
      f"no usable video: the annotations name {len(file.entries)}, found in "
      f"{videos.folder} 0; reasons: {describe_losses(manifests)}"
    )
  _describe_annotations(file, items, manifest_of)
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
  for entry in file.entries.values():
    is_chosen = record_order(entry.name, "selection") % 100 < percent
    if entry.subset == "train" and is_chosen:
      file.move(entry, "selection")


def _make_item(entry, video_id, path):
  return Item(
    video_id,
    entry.subset,
    path.absolute(),
    tuple(entry.segments),
    tuple(entry.captions),
    tuple(entry.ambiguous),
    entry.expected_duration_sec,
    entry.expected_frames,
  )


def _describe_annotations(file, items, manifest_of):
  """What the files say and got wrong, into the manifests."""
  for split, counts in file.annotated.items():
    manifest_of(split)["annotated"] = counts
  for note in file.excluded:
    manifest_of(note["split"])["excluded"].append(
      {"id": note["id"], "reason": note["reason"]}
    )
  for note in file.rejected:
    manifest_of(note["split"] or min(items))["rejected"].append(
      {"id": note["video"], "where": note["where"], "reason": note["reason"]}
    )
  for split in set(file.annotated) | set(items):
    manifest_of(split)["sources"]["annotations"] = file.sources


def describe_losses(manifests: dict[str, dict]) -> str:
  """A few reasons, for an error message."""
  reasons = [c["reason"] for m in manifests.values() for c in m["corrupt"]]
  missing = sum(len(m["missing"]) for m in manifests.values())
  return "; ".join([*reasons[:3], f"{missing} missing"])
