"""Defines dense features of videos: time grid and files.

Feature i of a video covers the clip [start_sec + i * stride_sec, + clip_sec).
Grid coordinates count strides from the middle of clip 0: g = i is the middle of
clip i.
"""

import concurrent.futures
import contextlib
import dataclasses
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from clap_jax.data import feature_tables, hdf5
from clap_jax.storage import arrays, locations

# "@" occurs in the names of Flickr's videos, as in DiDeMo.
_VIDEO_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.@-]{0,254}")
_REFUSED_SUFFIXES = (".pkl", ".pickle", ".pt", ".pth", ".joblib")
_READ_AT_ONCE = 16
_FILE_KEYS = ("features", "start_sec", "stride_sec", "clip_sec")


class FeatureError(ValueError):
  """Raised for missing or malformed features, or another grid or width."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureGrid:
  """Times of a video's features, in seconds."""

  start_sec: float
  stride_sec: float
  clip_sec: float

  def __post_init__(self):
    values = (self.start_sec, self.stride_sec, self.clip_sec)
    if not all(map(math.isfinite, values)) or min(values[1:]) <= 0:
      raise FeatureError(
        f"start, stride, clip = {values} s; expected finite numbers, stride "
        "and clip positive"
      )

  @classmethod
  def from_frames(
    cls,
    *,
    fps: float,
    stride_frames: float,
    clip_frames: float,
    first_frame: float = 0,
  ) -> "FeatureGrid":
    """Returns the grid of features that were computed from frame windows."""
    return cls(
      start_sec=first_frame / fps,
      stride_sec=stride_frames / fps,
      clip_sec=clip_frames / fps,
    )

  def to_grid(self, seconds: np.ndarray) -> np.ndarray:
    return (seconds - self.start_sec - self.clip_sec / 2) / self.stride_sec

  def to_seconds(self, grid: np.ndarray) -> np.ndarray:
    return grid * self.stride_sec + self.start_sec + self.clip_sec / 2

  def num_features(self, duration_sec: float) -> int:
    """Returns the number of clips in a video of this length, at least one."""
    slack_sec = duration_sec - self.start_sec - self.clip_sec
    return max(0, math.floor(slack_sec / self.stride_sec + 1e-6)) + 1


class VideoFeatures(NamedTuple):
  features: np.ndarray  # float32 (t, d)
  grid: FeatureGrid
  # Starts of shots except the first, (n,); not stored with the features.
  cuts_sec: np.ndarray = np.zeros(0)


def features_path(
  directory: locations.PathLike, video_id: str
) -> locations.Location:
  """Returns DIRECTORY/<video id>.npz; raises if the id would leave it."""
  if not _VIDEO_ID.fullmatch(video_id):
    raise FeatureError(
      f"video id {video_id!r} is not a file name; expected letters, digits and "
      "_-.@ , at most 255, not beginning with a dot"
    )
  return locations.at(directory) / f"{video_id}.npz"


def save_features(
  directory: locations.PathLike, video_id: str, video: VideoFeatures
) -> locations.Location:
  """Writes one video's file atomically."""
  path = features_path(directory, video_id)
  path.parent.mkdir(parents=True, exist_ok=True)
  features = _checked(video.features, str(path))
  grid = dataclasses.asdict(video.grid)
  arrays.write_npz(path, {"features": features, **grid})
  return path


def load_features(
  directory: locations.PathLike, video_id: str
) -> VideoFeatures:
  """Reads a video's file; see `load_file`."""
  return load_file(features_path(directory, video_id))


def load_file(path: locations.Location) -> VideoFeatures:
  """Reads a file written by `save_features`.

  Raises:
    FeatureError: the file is missing or damaged, or lacks an entry.
  """
  with _explained(), arrays.open_npz(path) as archive:
    missing = [key for key in _FILE_KEYS if key not in archive]
    if missing:
      raise FeatureError(
        f"{path} lacks {missing}; community files need read_features and a grid"
      )
    grid = {
      key: _number_of(archive[key], f"{path}, {key}") for key in _FILE_KEYS[1:]
    }
    features = _checked(archive["features"], str(path))
  return VideoFeatures(features, FeatureGrid(**grid))


def load_split_features(
  directory: locations.PathLike,
  video_ids: Iterable[str],
  *,
  on_missing: str = "raise",
) -> dict[str, VideoFeatures]:
  """Loads features of many videos, of one stride, clip length and width.

  Args:
    directory: output folder of `clap extract`.
    on_missing: 'raise' lists all missing ones; 'skip' leaves them out (subset
      evaluation, which the caller states on the card).

  Raises:
    FeatureError: files are missing, damaged or disagree.
  """
  video_ids = list(video_ids)
  present = _present(directory, video_ids)
  missing = [video_id for video_id in video_ids if video_id not in present]
  if locations.is_object(locations.at(directory)):  # each costs round trips
    with concurrent.futures.ThreadPoolExecutor(_READ_AT_ONCE) as pool:
      read = pool.map(lambda name: load_features(directory, name), present)
      loaded = dict(zip(present, read, strict=True))
  else:
    loaded = {name: load_features(directory, name) for name in present}
  if missing and on_missing == "raise":
    raise FeatureError(
      f"{directory} lacks the features of {len(missing)} videos "
      f"({', '.join(missing[:10])}{', ...' if len(missing) > 10 else ''}); "
      "extract them first"
    )
  kinds = {
    (video.features.shape[1], video.grid.stride_sec, video.grid.clip_sec)
    for video in loaded.values()
  }
  if len(kinds) > 1:
    raise FeatureError(
      f"{directory} mixes features of different (width, stride_sec, clip_sec): "
      f"{sorted(kinds)}; extract all with one model and one grid"
    )
  return loaded


def _present(
  directory: locations.PathLike, video_ids: Iterable[str]
) -> dict[str, None]:
  """Returns the videos that have a file, in order; lists a bucket once."""
  paths = {name: features_path(directory, name) for name in video_ids}
  root = locations.at(directory)
  if not isinstance(root, locations.ObjectPath):
    return {name: None for name, path in paths.items() if path.exists()}
  names = root.infos_below()
  return {name: None for name, path in paths.items() if path.name in names}


def read_features(
  path: locations.PathLike, *, axis_order: str = "td", key: str | None = None
) -> np.ndarray:
  """Reads community features as float32 (t, d): .npy, .npz, HDF5 or .csv.

  Args:
    path: the file; pickled content is refused.
    axis_order: 'td' for rows of time, 'dt' for files that store (d, t).
    key: entry of an .npz, or path of the data set in an .h5; None if the file
      has only one array.

  Raises:
    FeatureError: the file is of another kind, or not a finite matrix.
  """
  path = locations.at(path)
  suffix = path.suffix.lower()
  if suffix in _REFUSED_SUFFIXES:
    raise FeatureError(
      f"{path}: {suffix} files are pickles, and loading one can run arbitrary "
      "code; convert it to .npz where you trust it: "
      "np.savez(name, features=array), e.g. for a dictionary of videos one "
      "file each"
    )
  readers = {
    ".npz": lambda: _load_npz(path, key),
    ".npy": lambda: arrays.read_npy(path),
    ".csv": lambda: feature_tables.read(path),
    ".tsv": lambda: feature_tables.read(path),
    ".h5": lambda: _load_hdf5(path, key),
    ".hdf5": lambda: _load_hdf5(path, key),
  }
  if suffix not in readers:
    raise FeatureError(
      f"{path}: unknown kind; expected .npy, .npz, .h5, .hdf5, .csv or .tsv"
    )
  with _explained():
    features = readers[suffix]()
  if features.ndim == 3 and features.shape[0] == 1:
    features = features[0]
  return _checked(features if axis_order == "td" else features.T, str(path))


def _checked(features: np.ndarray, name: str) -> np.ndarray:
  if (
    features.ndim != 2 or not features.size or features.dtype.kind not in "fiu"
  ):
    raise FeatureError(
      f"{name}: features of shape {features.shape}, type {features.dtype}; "
      "expected numbers of shape (time, width), neither of them 0"
    )
  is_finite = np.isfinite(features).all(axis=1)
  if not is_finite.all():
    rows = np.flatnonzero(~is_finite)
    raise FeatureError(
      f"{name}: features hold NaN or infinite values in {len(rows)} of "
      f"{len(features)} rows, first in row {rows[0]} (counted from 0)"
    )
  return np.ascontiguousarray(features, np.float32)


@contextlib.contextmanager
def _explained() -> Iterator[None]:
  """Turns errors of reading into a FeatureError that names the file."""
  try:
    yield
  except FeatureError:
    raise
  except (OSError, ValueError) as error:
    raise FeatureError(f"cannot read features: {error}") from error


def _load_hdf5(path: locations.PathLike, key: str | None) -> np.ndarray:
  """Loads one data set; TSP has (t, d) at ID, PCA-C3D at ID/NAME."""
  with hdf5.open_hdf5(path) as file:
    return file.read(key)


def _number_of(array: np.ndarray, name: str) -> float:
  if array.size != 1 or array.dtype.kind not in "fiu":
    raise FeatureError(f"{name} is of shape {array.shape}; expected one number")
  return float(array.reshape(()))


def _load_npz(path: locations.PathLike, key: str | None) -> np.ndarray:
  with arrays.open_npz(path) as archive:
    if key is None and len(archive) > 1 and "features" in archive:
      key = "features"
    if key is None and len(archive) == 1:
      key = next(iter(archive))
    if key is None or key not in archive:
      raise FeatureError(
        f"{path} has the entries {sorted(archive)!r:.1000}; name one of them "
        "as the key"
      )
    return archive[key]


def standardization(
  features: Mapping[str, VideoFeatures],
) -> dict[str, list[float]]:
  """Computes the mean and deviation of each channel over all videos.

  A constant channel keeps its scale.
  """
  count, total, squares = 0, np.zeros(1), np.zeros(1)
  for video in features.values():
    values = video.features.astype(np.float64)
    count += len(values)
    total = total + values.sum(axis=0)
    squares = squares + (values**2).sum(axis=0)
  mean = total / count
  deviation = np.sqrt(np.maximum(squares / count - mean**2, 0.0))
  deviation = np.where(deviation > 1e-6, deviation, 1.0)
  return {"mean": mean.tolist(), "deviation": deviation.tolist()}
