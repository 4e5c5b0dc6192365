"""Plans and writes untrimmed recordings made of trimmed clips.

The result depends only on clips, settings and seed. Recordings are mp4 files
with one annotation file in ActivityNet's form, and are packed unchanged. A
second run of the same command keeps complete ones.
"""

import concurrent.futures
import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Callable, Mapping

import av

from clap_jax.annotations.annotation_file import Span
from clap_jax.storage import locations, output, untrusted
from tfds_builders import collection, encoding, transcoding
from tfds_builders.trimmed import clips, joining, splits
from tfds_builders.trimmed.settings import TrimmedSettings

ANNOTATIONS_NAME = "annotations.json"
MARKER_NAME = "joined_with.json"
FORMAT = 1  # increase it if equal clips give other bytes


@dataclasses.dataclass(frozen=True)
class Recording:
  """Clips of one split in the order in which they are joined."""

  id: str
  split: str
  items: tuple[collection.Item, ...]


def arrange(
  items: Mapping[str, list[collection.Item]],
  clip_of: Mapping[pathlib.Path, clips.Clip],
  settings: TrimmedSettings,
) -> dict[str, list[Recording]]:
  """Returns the recordings of each split.

  Clips that share the constant attributes are ordered by seeded hashes and
  divided into runs of equal length.

  Raises:
    ValueError: a clip lacks an attribute.
  """
  groups: dict[tuple[str, ...], list[collection.Item]] = {}
  for split, group in items.items():
    for item in group:
      clip = clip_of[item.path]
      values = [
        splits.value_of(clip, name, flag="--constant")
        for name in settings.constant
      ]
      groups.setdefault((split, *values), []).append(item)
  runs = {}
  for key, group in sorted(groups.items()):
    salt = f"{settings.seed}/{'/'.join(key)}/"
    group.sort(key=lambda item: collection.record_order(item.id, salt))
    count = -(-len(group) // settings.clips_per_recording)
    for number in range(count):
      first, last = (len(group) * (number + k) // count for k in (0, 1))
      name = "/".join(clips.path_part(value) for value in key)
      runs[f"{name}/{number:03d}"] = key[0], tuple(group[first:last])
  make_id = clips.unique_ids(runs)
  found: dict[str, list[Recording]] = {}
  for name, (split, run) in runs.items():
    found.setdefault(split, []).append(Recording(make_id(name), split, run))
  return found


def write(
  recordings: Mapping[str, list[Recording]],
  out: pathlib.Path,
  *,
  limits: transcoding.StoreLimits,
  workers: int,
  on_progress: Callable[[int, int], None],
) -> dict[str, joining.Joined]:
  """Writes out/<split>/<id>.mp4 and annotations.json; results by id.

  Raises:
    ValueError: `out` holds something else, or the store is the source's.
    OSError: where the disk takes no more.
  """
  if limits.store == "original":
    raise ValueError(
      "--join encodes anew: choose --store h264 or jpeg, not original"
    )
  _claim_folder(out)
  ordered = [r for group in recordings.values() for r in group]
  for split in recordings:
    output.make_folder(out / split, folder=out)
  _remove_others(ordered, out)
  done: dict[str, joining.Joined] = {}
  with concurrent.futures.ThreadPoolExecutor(workers) as pool:
    runs = [pool.submit(_write_one, r, out, limits) for r in ordered]
    try:
      for recording, run in zip(ordered, runs, strict=True):
        done[recording.id] = run.result()
        on_progress(len(done), len(ordered))
    except BaseException:
      pool.shutdown(wait=False, cancel_futures=True)
      raise
  database = {
    r.id: describe(r, done[r.id]) for r in ordered if done[r.id].facts
  }
  output.write_json(out / ANNOTATIONS_NAME, {"database": database}, folder=out)
  return done


def _claim_folder(out):
  """Refuses a folder with other content; marks it as this one."""
  output.check_links(out)
  marker, mine = out / MARKER_NAME, {"dataset": "trimmed"}
  if out.is_dir() and any(out.iterdir()):
    known = untrusted.read_json(marker) if marker.is_file() else None
    if known != mine:
      raise ValueError(
        f"{out} is not empty and holds no joined recordings; move it away or "
        "build under another name, such as trimmed/NAME"
      )
  output.make_folder(out)
  output.write_json(marker, mine, folder=out)


def _remove_others(recordings, out):
  """Removes recordings of an earlier run with other clips or settings."""
  mine = {out / r.split / f"{r.id}.json" for r in recordings}
  for note in set(out.glob("*/*.json")) - mine:
    output.check_links(note, out)
    note.with_suffix(".mp4").unlink(missing_ok=True)
    note.unlink()


def _digest(recording, limits):
  """Returns a hash of all that the bytes depend on, except clips' content."""
  facts = []
  for item in recording.items:
    status = item.path.stat()
    facts.append([str(item.path), status.st_size, status.st_mtime_ns])
  text = json.dumps([FORMAT, av.__version__, facts, dataclasses.asdict(limits)])
  return hashlib.sha256(text.encode()).hexdigest()


def _write_one(recording, out, limits) -> joining.Joined:
  """Joins one recording unless it exists."""
  target = out / recording.split / f"{recording.id}.mp4"
  note, digest = target.with_suffix(".json"), _digest(recording, limits)
  if note.is_file():
    known = untrusted.read_json(note)
    if isinstance(known, dict) and known.get("digest") == digest:
      facts = known["facts"]
      count = encoding.count_frames(target) if facts else 0
      if not facts or count == facts["num_frames"]:
        return joining.Joined(
          facts,
          {int(place): count for place, count in known["frames"].items()},
          {int(place): reason for place, reason in known["broken"].items()},
        )
  paths = [item.path for item in recording.items]
  joined = joining.join_apart(paths, target, limits=limits)
  output.write_json(
    note, {"digest": digest, **dataclasses.asdict(joined)}, folder=out
  )
  return joined


def describe(recording: Recording, joined: joining.Joined) -> dict:
  """Returns the entry of annotations.json; times are those of frames."""
  fps, start = joined.facts["fps"], 0
  entry = {
    "subset": recording.split,
    "duration": joined.facts["duration_sec"],
    "annotations": [],
    "captions": [],
    "clips": [],
  }
  for place, item in enumerate(recording.items):
    if place in joined.broken:
      continue
    end = start + joined.frames[place]
    segment = [start / fps, end / fps]
    entry["clips"].append({"id": item.id, "segment": segment})
    for span in item.segments:
      entry["annotations"].append({"segment": segment, "label": span.text})
    for span in item.captions:
      entry["captions"].append({"segment": segment, "text": span.text})
    start = end
  return entry


def make_plan(
  plan: collection.Plan,
  recordings: Mapping[str, list[Recording]],
  done: Mapping[str, joining.Joined],
  out: pathlib.Path,
) -> collection.Plan:
  """Returns the plan to pack the recordings; lists broken clips in manifests.

  Raises:
    NothingUsableError: every clip is broken.
  """
  items: dict[str, list[collection.Item]] = {}
  manifests = plan.manifests
  for split, group in recordings.items():
    manifest = manifests[split]
    manifest["annotated"] = {
      "videos": len(group),
      "segments": sum(len(i.segments) for r in group for i in r.items),
      "captions": sum(len(i.captions) for r in group for i in r.items),
    }
    for recording in group:
      joined = done[recording.id]
      for place, reason in sorted(joined.broken.items()):
        manifest["corrupt"].append(
          {
            "id": recording.items[place].id,
            "reason": f"{reason} (left out of {recording.id})",
          }
        )
      if joined.facts:
        items.setdefault(split, []).append(_packed(recording, joined, out))
  if not items:
    raise collection.NothingUsableError(
      "no usable clip: none can be joined; reasons: "
      f"{collection.describe_losses(manifests)}",
      manifests,
    )
  for split, group in items.items():
    group.sort(key=lambda item: collection.record_order(item.id, split))
  return collection.Plan(items, manifests, plan.class_names, plan.unlisted)


def _packed(recording, joined, out) -> collection.Item:
  entry = describe(recording, joined)
  spans = {
    key: tuple(
      Span(*span["segment"], span[text], recording.id) for span in entry[key]
    )
    for key, text in (("annotations", "label"), ("captions", "text"))
  }
  path = (out / recording.split / f"{recording.id}.mp4").absolute()
  return collection.Item(
    recording.id,
    recording.split,
    path,
    spans["annotations"],
    spans["captions"],
    expected_duration_sec=entry["duration"],
    expected_frames=joined.facts["num_frames"],
    facts=joined.facts,
    version=locations.version(path),
  )
