"""Brings a folder of videos and its annotations together, before packing."""

import concurrent.futures
import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Callable

from tfds_builders import packing, transcoding
from tfds_builders.folder import annotation_files

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


@dataclasses.dataclass
class Collected:
  """What can be packed, and manifests of what cannot."""

  videos: dict[str, list[dict]]  # per split: packing.make_record's arguments
  manifests: dict[str, dict]
  class_names: list[str]
  unlisted: list[str]  # video files that the annotations do not name


def _index_files(folder):
  """Video files by relative name, name without ending, and v_ + id."""
  by_name, by_stem = {}, {}
  for path in sorted(folder.rglob("*")):
    if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file():
      name = path.relative_to(folder).as_posix()
      by_name[name] = path
      by_stem.setdefault(name[: -len(path.suffix)], path)
  return by_name, by_stem


def _find_file(name, by_name, by_stem):
  """The file an entry names, or None."""
  return by_name.get(name) or by_stem.get(name) or by_stem.get(f"v_{name}")


def fit_spans(
  spans: list[annotation_files.Span],
  duration_sec: float,
  *,
  video_id: str,
  manifest: dict,
) -> list[tuple[float, float, str]]:
  """Clips spans to [0, duration]; notes in the manifest what changed."""
  kept = []
  for span in spans:
    start, end = max(0.0, span.start_sec), min(duration_sec, span.end_sec)
    note = {"id": video_id, "where": span.where}
    if end - start < MIN_SPAN_SEC:
      manifest["rejected"].append(
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
    whole = span.end_sec >= annotation_files.WHOLE_VIDEO_SEC
    if beyond > CLIP_SLACK_SEC and not whole:
      manifest["repaired"].append(
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


def _stored_name(path, limits):
  """Changes with the source's size or time and with the stored form."""
  status = path.stat()
  key = json.dumps(
    [str(path), status.st_size, status.st_mtime_ns, dataclasses.asdict(limits)]
  )
  return hashlib.sha256(key.encode()).hexdigest()[:24]


def _store(path, cache, limits):
  """Transcodes once; a restarted build finds what is complete."""
  stem = cache / _stored_name(path, limits)
  video, facts = stem.with_suffix(".mp4"), stem.with_suffix(".json")
  if not (facts.exists() and video.exists()):
    answer = transcoding.transcode_apart(path, video, limits=limits)
    packing.write_json(facts, answer)
  return {"path": video, **json.loads(facts.read_text(encoding="utf-8"))}


def _assign_ids(file, folder, manifest_of):
  """(entry, id, path) of what can be tried; the rest goes to manifests."""
  by_name, by_stem = _index_files(folder)
  root, taken, tried = folder.resolve(), {}, []
  for entry in file.entries.values():
    manifest = manifest_of(entry.subset)
    try:
      video_id = packing.id_from_name(entry.name)
    except ValueError as error:
      manifest["corrupt"].append(
        {"id": entry.name[:128], "reason": str(error), "where": entry.where}
      )
      continue
    path = _find_file(entry.name, by_name, by_stem)
    if path is None:
      manifest["missing"].append(video_id)
    elif not path.resolve().is_relative_to(root):
      manifest["corrupt"].append(
        {"id": video_id, "reason": "a link that leaves the videos' folder"}
      )
    elif video_id in taken:
      manifest["corrupt"].append(
        {
          "id": video_id,
          "reason": (
            f"{entry.name!r} and {taken[video_id]!r} give the same id; rename "
            "one of them"
          ),
        }
      )
    else:
      taken[video_id] = entry.name
      tried.append((entry, video_id, path))
  used = {path for _, _, path in tried}
  return tried, [n for n, path in by_name.items() if path not in used]


def _take(entry, video_id, stored, manifest):
  """The record's arguments of one stored video."""
  duration_sec = stored["duration_sec"]
  spans = [
    fit_spans(s, duration_sec, video_id=video_id, manifest=manifest)
    for s in (entry.segments, entry.captions)
  ]
  return {
    "video_id": video_id,
    "segments": spans[0],
    "captions": spans[1],
    **stored,
  }


def collect(
  folder: pathlib.Path,
  annotations: pathlib.Path,
  *,
  cache: pathlib.Path,
  limits: transcoding.StoreLimits,
  subset: int | None,
  on_progress: Callable[[str, int, int], None],
) -> Collected:
  """Reads the annotations and transcodes every video they name.

  Raises:
    ValueError: if the annotations cannot be read or no video can be used.
    FileNotFoundError: if the folder or the file is not there.
  """
  if not folder.is_dir():
    raise FileNotFoundError(f"no folder of videos at {folder}")
  file = annotation_files.read(annotations)
  manifests: dict[str, dict] = {}

  def manifest_of(split):
    return manifests.setdefault(split, packing.new_manifest(split))

  tried, unlisted = _assign_ids(file, folder, manifest_of)
  tried = _first_of_each(tried, subset)
  cache.mkdir(parents=True, exist_ok=True)
  videos: dict[str, list[dict]] = {}
  workers = max(1, len(os.sched_getaffinity(0)))
  with concurrent.futures.ThreadPoolExecutor(workers) as pool:
    jobs = [pool.submit(_store, path, cache, limits) for _, _, path in tried]
    for done, ((entry, video_id, _), job) in enumerate(
      zip(tried, jobs, strict=True), 1
    ):
      manifest = manifest_of(entry.subset)
      try:
        stored = job.result()
      except transcoding.UnusableVideoError as error:
        manifest["corrupt"].append({"id": video_id, "reason": str(error)})
      else:
        videos.setdefault(entry.subset, []).append(
          _take(entry, video_id, stored, manifest)
        )
      on_progress("transcode", done, len(tried))
  if not videos:
    raise ValueError(
      f"no usable video: {annotations} names "
      f"{len(file.entries)}, found in {folder} {len(tried)}; "
      f"reasons: {_reasons(manifests)}"
    )
  for note in file.rejected:  # what the file's own lines got wrong
    entry = file.entries.get(note["video"])
    manifest_of(entry.subset if entry else min(videos))["rejected"].append(
      {"id": note["video"], "where": note["where"], "reason": note["reason"]}
    )
  labels = {
    s[2] for group in videos.values() for v in group for s in v["segments"]
  }
  return Collected(videos, manifests, sorted(labels), unlisted)


def _first_of_each(tried, subset):
  if subset is None:
    return tried
  seen: dict[str, int] = {}
  kept = []
  for item in tried:
    seen[item[0].subset] = seen.get(item[0].subset, 0) + 1
    if seen[item[0].subset] <= subset:
      kept.append(item)
  return kept


def _reasons(manifests):
  reasons = [c["reason"] for m in manifests.values() for c in m["corrupt"]]
  missing = sum(len(m["missing"]) for m in manifests.values())
  return "; ".join([*reasons[:3], f"{missing} missing"])
