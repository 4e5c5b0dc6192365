"""Writes the records and manifests of every builder.

These are ids, records, background spans, `.idx` files and `manifest.json`.
"""

import json
import pathlib
import re
from collections.abc import Sequence

import numpy as np

from clap_jax.storage import locations, output, video_names

ID_PATTERN = re.compile(r"[A-Za-z0-9_-]{1,128}")
_KEY_PATTERN = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}")
INFO_FILE = "dataset_info.json"  # without it there is no dataset
MIN_BACKGROUND_SEC = 0.5
# A video within these of its stated length is taken as the annotated one.
DURATION_TOLERANCE_SEC = 0.5
FRAMES_TOLERANCE = 15
DURATION_TOLERANCE = 0.02
GAP_FRAMES = 4.0  # times the mean distance of two frames


def check_id(video_id: str) -> str:
  """Returns the id.

  Raises:
    ValueError: it is not 1 to 128 letters, digits, `_` or `-`.
  """
  if not isinstance(video_id, str) or not ID_PATTERN.fullmatch(video_id):
    raise ValueError(
      f"unsafe video id {str(video_id)[:80]!r}: expected 1 to "
      "128 letters, digits, '_' or '-'; rename the video"
    )
  return video_id


def id_from_name(name: str) -> str:
  """Makes a safe id from a relative file name: `a_b_c` from `a/b c.mp4`.

  Ids of names in other scripts end with a hash, to be unique.

  Raises:
    ValueError: the name leaves its folder, has control characters, or is empty
      or too long.
  """
  if not is_relative_name(name):
    raise ValueError(
      f"unsafe video name {name[:80]!r}: expected a relative "
      "file name within the videos' folder"
    )
  stem = re.sub(r"\.[A-Za-z0-9]{1,5}$", "", name)
  return check_id(video_names.slug(stem))


def is_relative_name(name: str) -> bool:
  """Returns True if a name stays in its folder, without control characters."""
  return not (
    name.startswith(("/", "~"))
    or "\\" in name
    or any(part in ("", ".", "..") for part in name.split("/"))
    or any(ord(c) < 32 or ord(c) == 127 for c in name)
  )


def id_from_key(key: str) -> str:
  """Makes a safe id from a dataset's video id; replaces dots by `_`.

  Raises:
    ValueError: it has other characters than letters, digits, `_`, `-` and inner
      dots.
  """
  if not _KEY_PATTERN.fullmatch(key) or ".." in key:
    raise ValueError(
      f"unsafe video id {key[:80]!r}: expected letters, digits, '_', '-' and "
      "single dots"
    )
  return check_id(key.replace(".", "_"))


def background_spans(
  segments: list[tuple[float, float]], length: float, *, longer_than: float
) -> list[tuple[float, float]]:
  """Returns the maximal spans of [0, length) that no segment covers."""
  spans, cursor = [], 0
  for start, end in [*sorted(segments), (length, length)]:
    if start - cursor > longer_than:
      spans.append((cursor, start))
    cursor = max(cursor, end)
  return spans


def make_record(
  video_id: str,
  video: bytes,
  *,
  fps: float,
  duration_sec: float,
  num_frames: int,
  height: int,
  width: int,
  segments: list[tuple[float, float, str]],
  captions: list[tuple[float, float, str]],
  ambiguous: Sequence[tuple[float, float]] = (),
) -> dict:
  """Makes an example in the order and units of `schema.make_features`.

  Segments are (start_sec, end_sec, label), captions (start_sec, end_sec, text);
  both get sorted by time. Background is covered by neither a segment nor an
  `ambiguous` span.
  """
  spans = background_spans(
    [*(s[:2] for s in segments), *ambiguous],
    duration_sec,
    longer_than=MIN_BACKGROUND_SEC,
  )
  return {
    "id": check_id(video_id),
    "video": video,
    "fps": np.float32(fps),
    "duration_sec": np.float32(duration_sec),
    "num_frames": np.int32(num_frames),
    "height": np.int32(height),
    "width": np.int32(width),
    "segments": [
      {"start_sec": s, "end_sec": e, "label": label}
      for s, e, label in sorted(segments)
    ],
    "captions": [
      {"start_sec": s, "end_sec": e, "text": text}
      for s, e, text in sorted(captions)
    ],
    "background": [{"start_sec": s, "end_sec": e} for s, e in spans],
  }


def new_manifest(split: str) -> dict:
  """Makes the manifest of an empty split.

  `annotated` counts the split's content of the annotation files; `segments` and
  `captions` that of the records. `videos` and `sources` describe the sources.
  """
  return {
    "split": split,
    "present": 0,
    "missing": [],
    "corrupt": [],
    "excluded": [],
    "repaired": [],
    "rejected": [],
    "duration_mismatch": [],
    "frames_mismatch": [],
    "damaged": [],
    "annotated": {},
    "segments": 0,
    "captions": 0,
    "classes": 0,
    "duration_sec": 0.0,
    "action_sec": 0.0,
    "background_sec": 0.0,
    "bytes": 0,
    "segments_per_class": {},
    "videos": {},
    "shards": [],
    "sources": {},
  }


def describe(record: dict) -> dict:
  """Counts one record for a manifest."""
  duration_sec = float(record["duration_sec"])
  rest = background_spans(
    [(s["start_sec"], s["end_sec"]) for s in record["segments"]],
    duration_sec,
    longer_than=0.0,
  )
  rest_sec = float(sum(end - start for start, end in rest))
  return {
    "stored": {
      "duration_sec": duration_sec,
      "bytes": len(record["video"]),
      "labels": [s["label"] for s in record["segments"]],
      "captions": len(record["captions"]),
      "action_sec": duration_sec - rest_sec,
      "background_sec": float(
        sum(s["end_sec"] - s["start_sec"] for s in record["background"])
      ),
    }
  }


def add_to_manifest(manifest: dict, note: dict) -> None:
  """Counts one video by the note in its shard."""
  for key in ("repaired", "rejected"):
    manifest[key] += note[key]
  source = {k: note[k] for k in ("bytes", "sha256") if k in note}
  # Not the first stream, or several joined parts.
  source |= {k: note[k] for k in ("stream", "joined") if note.get(k)}
  manifest["videos"][note["id"]] = source
  if "corrupt" in note:
    manifest["corrupt"].append({"id": note["id"], "reason": note["corrupt"]})
    return
  stored = note["stored"]
  manifest["present"] += 1
  manifest["segments"] += len(stored["labels"])
  for key in ("captions", "duration_sec", "bytes"):
    manifest[key] += stored[key]
  for key in ("action_sec", "background_sec"):
    manifest[key] += stored[key]
  counts = manifest["segments_per_class"]
  for label in stored["labels"]:
    counts[label] = counts.get(label, 0) + 1
  manifest["classes"] = len(counts)
  _compare(manifest, note, source)
  _note_damage(manifest, note)


def _compare(manifest, note, source):
  """Compares expected and actual length; adds to the lists of mismatches."""
  for key, tolerance in (
    ("duration_sec", (DURATION_TOLERANCE_SEC, DURATION_TOLERANCE)),
    ("frames", (FRAMES_TOLERANCE, DURATION_TOLERANCE)),
  ):
    expected, actual = note[key]
    source[key] = {"expected": expected, "actual": actual}
    if expected is None:
      continue
    if abs(expected - actual) > max(tolerance[0], tolerance[1] * expected):
      manifest[f"{key.removesuffix('_sec')}_mismatch"].append(
        {"id": note["id"], "expected": expected, "actual": actual}
      )


def _note_damage(manifest, note):
  """Notes stored videos that differ from what their files state.

  These have damaged or missing frames, another end, or a gap between two frames
  where the decoder skipped damage; a screen recording of varying rate may have
  valid gaps.
  """
  frames, duration_sec = note["frames"][1], note["duration_sec"][1]
  claimed = note["claimed"] or {}
  claimed_frames = claimed.get("num_frames") or frames
  claimed_sec = claimed.get("duration_sec") or duration_sec
  frame_sec = duration_sec / frames
  if (
    note["damaged_frames"]
    or frames < claimed_frames
    or abs(duration_sec - claimed_sec) > 1.5 * frame_sec
    or note["longest_gap_sec"] > GAP_FRAMES * frame_sec
  ):
    manifest["damaged"].append(
      {
        "id": note["id"],
        "damaged_frames": note["damaged_frames"],
        "longest_gap_sec": note["longest_gap_sec"],
        "frames": {"claimed": claimed_frames, "actual": frames},
        "duration_sec": {"claimed": claimed_sec, "actual": duration_sec},
      }
    )


def write_json(path: locations.PathLike, value: object) -> None:
  """Writes a JSON file atomically."""
  output.write_text(path, json.dumps(value, indent=1) + "\n")


def write_index(shard: pathlib.Path, offsets: np.ndarray) -> None:
  """Writes `<shard>.idx`, the offsets of a shard's records."""
  index = shard.with_name(f"{shard.name}.idx")
  output.write_bytes(index, offsets.astype("<u8").tobytes())
