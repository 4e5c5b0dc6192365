"""Reads and writes the files of an index, which may be untrusted.

Links below the folder are not followed, and all values are checked when read.
"""

import math
import re
from typing import Any

import numpy as np

from clap_jax.media import video_reader
from clap_jax.storage import arrays, locations, output, untrusted
from clap_jax.storage import metadata as metadata_lib
from clap_jax.storage.untrusted import UntrustedFileError

INDEX_FILE = "index.json"
VECTORS_FILE = "vectors.npy"
_VIDEOS_FOLDER = "videos"
_MAX_INDEX_BYTES = 1 << 30
_MAX_ROWS = 1 << 40
_SHA256 = re.compile(r"[0-9a-f]{64}")
_VIDEO_KEYS = ("path", "sha256", "duration_sec", "first", "count")


def is_claimed(directory: locations.Location) -> bool:
  """Returns True for a folder that `clap index` made, complete or not."""
  return _is_there(directory / INDEX_FILE)


def is_finished(directory: locations.Location) -> bool:
  """Returns True if the folder contains a complete index."""
  return is_claimed(directory) and _is_there(directory / VECTORS_FILE)


def _is_there(path: locations.Location) -> bool:
  return path.is_symlink() or path.exists()


def write_metadata(directory: locations.Location, metadata: dict) -> None:
  """Writes index.json with its format number."""
  number = metadata_lib.FORMATS[INDEX_FILE].number
  output.write_json(
    directory / INDEX_FILE,
    {metadata_lib.FORMAT_KEY: number, **metadata},
    folder=directory,
  )


def read_metadata(directory: locations.Location) -> dict:
  """Reads and checks index.json.

  Raises:
    ValueError: if it is damaged; the message names the file and the value.
  """
  path = directory / INDEX_FILE
  document = untrusted.read_json(
    INDEX_FILE, folder=directory, max_bytes=_MAX_INDEX_BYTES
  )
  metadata = metadata_lib.parse(document, path)
  for key in ("encoder_directory", "parameters"):
    _expect(_is_name(metadata[key]), path, key, metadata[key], "text")
  for key in ("stride_sec", "clip_sec"):
    value = metadata[key]
    is_positive = _is_number(value) and value > 0
    _expect(is_positive, path, key, value, "a positive number")
  for key in ("videos", "failed"):
    _expect(isinstance(metadata[key], list), path, key, metadata[key], "a list")
  first = 0
  for number, entry in enumerate(metadata["videos"]):
    _check_video(entry, path, number, first=first)
    first += entry["count"]
  for number, entry in enumerate(metadata["failed"]):
    is_entry = isinstance(entry, dict) and entry.keys() == {"video", "reason"}
    is_entry = is_entry and all(isinstance(v, str) for v in entry.values())
    where = f"failed[{number}]"
    _expect(is_entry, path, where, entry, "a video and a reason")
  return metadata


def _check_video(entry: Any, path, number: int, *, first: int) -> None:
  where = f"videos[{number}]"
  is_entry = isinstance(entry, dict) and entry.keys() == {*_VIDEO_KEYS}
  _expect(is_entry, path, where, entry, f"the keys {', '.join(_VIDEO_KEYS)}")
  duration_sec, count = entry["duration_sec"], entry["count"]
  digest = entry["sha256"]
  for key, is_right, expected in (
    ("path", _is_name(entry["path"]), "the path of a file"),
    (
      "sha256",
      isinstance(digest, str) and _SHA256.fullmatch(digest),
      "64 hexadecimal digits",
    ),
    (
      "duration_sec",
      _is_number(duration_sec) and duration_sec >= 0,
      "seconds, not negative",
    ),
    ("count", type(count) is int and 0 < count < _MAX_ROWS, "1 or more"),
    (
      "first",
      type(entry["first"]) is int and entry["first"] == first,
      f"{first}, the number of clips of the videos before it",
    ),
  ):
    _expect(is_right, path, f"{where}.{key}", entry[key], expected)


def _expect(is_right: Any, path, key: str, value: Any, expected: str) -> None:
  if not is_right:
    raise UntrustedFileError(
      f"{path}: {key} is {value!r:.100}; expected {expected}. Run `clap index` "
      "again into another folder."
    )


def _is_name(value: Any) -> bool:
  return isinstance(value, str) and bool(value) and "\0" not in value


def _is_number(value: Any) -> bool:
  return type(value) in (int, float) and math.isfinite(value)


def write_matrix(directory: locations.Location, matrix: np.ndarray) -> None:
  """Writes the vectors of all videos."""
  arrays.write_npy(directory / VECTORS_FILE, matrix, folder=directory)


def map_matrix(directory: locations.Location, *, num_rows: int) -> np.ndarray:
  """Memory-maps the vectors of all videos, float16 (num_rows, p).

  Raises:
    ValueError: if the file is damaged or has another number of rows.
  """
  path = directory / VECTORS_FILE
  matrix = arrays.map_npy(VECTORS_FILE, folder=directory)
  is_matrix = matrix.ndim == 2 and matrix.shape[1] > 0
  if not is_matrix or matrix.dtype != np.float16 or len(matrix) != num_rows:
    raise UntrustedFileError(
      f"{path} has shape {matrix.shape} and type {matrix.dtype}, but expected "
      f"{num_rows} rows of float16 by {INDEX_FILE}; run `clap index` again."
    )
  return matrix


def read_video(
  directory: locations.Location, digest: str, *, width: int
) -> tuple[np.ndarray, float] | None:
  """Reads the cached vectors (n, p) and duration of a video.

  Returns:
    None if the video is not cached, or by another revision of the video reader.

  Raises:
    ValueError: if its file is a link, damaged, or of another width.
  """
  name = f"{_VIDEOS_FOLDER}/{digest}.npz"
  try:
    found = arrays.read_npz(name, folder=directory)
  except FileNotFoundError:
    return None
  reader = found.get("reader")
  if reader is None or str(reader) != str(video_reader.READER_VERSION):
    return None
  vectors, duration_sec = found.get("vectors"), found.get("duration_sec")
  if (
    vectors is not None
    and vectors.dtype == np.float16
    and vectors.ndim == 2
    and vectors.shape[1] == width
    and len(vectors) > 0
    and duration_sec is not None
    and duration_sec.shape == ()
    and duration_sec.dtype.kind == "f"
    and 0 <= duration_sec < math.inf
  ):
    return vectors, float(duration_sec)
  raise UntrustedFileError(
    f"{directory / name}: expected float16 vectors of width {width} and a "
    "duration; remove the file and run `clap index` again."
  )


def read_cuts(directory: locations.Location, digest: str) -> np.ndarray:
  """Reads the cuts of a video in seconds (n,); empty if none were stored.

  Raises:
    ValueError: if the video's file is a link or damaged.
  """
  name = f"{_VIDEOS_FOLDER}/{digest}.npz"
  try:
    with arrays.open_npz(name, folder=directory) as found:
      cuts_sec = found.get("cuts_sec")
  except FileNotFoundError:
    return np.zeros(0)
  if cuts_sec is None:
    return np.zeros(0)
  if cuts_sec.dtype.kind != "f" or cuts_sec.ndim != 1:
    raise UntrustedFileError(
      f"{directory / name}: cuts_sec is not a list of times; remove the file "
      "and run `clap index` again."
    )
  return cuts_sec


def write_video(
  directory: locations.Location,
  digest: str,
  *,
  vectors: np.ndarray,
  duration_sec: float,
  cuts_sec: np.ndarray,
) -> None:
  """Writes the values that `read_video` and `read_cuts` read."""
  folder = directory / _VIDEOS_FOLDER
  folder.mkdir(exist_ok=True)
  arrays.write_npz(
    folder / f"{digest}.npz",
    {
      "vectors": vectors,
      "duration_sec": np.float64(duration_sec),
      "cuts_sec": cuts_sec,
      "reader": video_reader.READER_VERSION,
    },
    folder=directory,
  )
