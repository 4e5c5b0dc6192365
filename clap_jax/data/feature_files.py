"""Reads published features: names, layouts and timing.

A folder holds one or several files per video (.npy, .npz, .csv), or one HDF5
file of all videos. The files carry no timing; `FeatureFiles` states it.
"""

import collections
import dataclasses
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from clap_jax.data import hdf5
from clap_jax.data.features import (
  FeatureError,
  FeatureGrid,
  VideoFeatures,
  load_features,
  read_features,
)
from clap_jax.data.records import ExampleInfo
from clap_jax.storage import locations, video_names

TIMINGS = ("stored", "frames", "even")
AXIS_ORDERS = ("td", "dt")
_MAX_CACHE_BYTES = 2 << 30


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureFiles:
  """Names, layout and timing of feature files.

  Attributes:
    names: files of a video below the folder, with {id} for the video's id;
      several (e.g. RGB and flow) are concatenated along the width and cut to
      the shortest. A name without {id} is one HDF5 file of all videos.
    key: the array within an .npz or HDF5 file, may contain {id}: "{id}" for
      TSP, "{id}/c3d_features" for PCA-C3D; "" if there is only one.
    axis_order: "td" for rows of time, "dt" for files that store (d, t).
    timing: "frames": feature i covers window_frames frames from offset_frames +
      i * stride_frames on; "even": the features divide the video evenly, as in
      files rescaled to a fixed number; "stored": the .npz also holds start_sec,
      stride_sec and clip_sec, as `clap extract` writes them.
    fps: frames per second of these frames; None uses that of the annotations.
      Features at fixed seconds have fps 1.
    stride_frames: frames from one feature to the next.
    window_frames: frames that a feature is computed from.
    offset_frames: first frame of the first feature.
    encoder: name of the encoder of the features, for the results.
  """

  names: tuple[str, ...] = ("{id}.npz",)
  key: str = ""
  axis_order: str = "td"
  timing: str = "stored"
  fps: float | None = None
  stride_frames: float | None = None
  window_frames: float | None = None
  offset_frames: float = 0.0
  encoder: str = "external"

  def __post_init__(self):
    if self.timing not in TIMINGS or self.axis_order not in AXIS_ORDERS:
      raise ValueError(
        f"timing must be one of {TIMINGS} and axis_order of {AXIS_ORDERS}, got "
        f"{self.timing!r} and {self.axis_order!r}."
      )
    if not self.names or (
      len(self.names) > 1 and not all("{id}" in name for name in self.names)
    ):
      raise ValueError(
        f"names must be one HDF5 file, or files with {{id}}, got {self.names}."
      )
    if "{id}" not in "".join(self.names) and "{id}" not in self.key:
      raise ValueError(
        f"neither names {self.names} nor key {self.key!r} holds {{id}}: all "
        "videos would have the same features."
      )
    given = (self.stride_frames, self.window_frames)
    if self.timing == "frames" and not all(v and v > 0 for v in given):
      raise ValueError(
        "timing 'frames' needs stride_frames and window_frames above 0, got "
        f"{given}."
      )
    if self.timing != "frames" and (given != (None, None) or self.fps):
      raise ValueError(
        f"timing {self.timing!r} takes no fps, stride_frames or window_frames; "
        "remove them, or choose 'frames'."
      )
    if self.fps is not None and not self.fps > 0:
      raise ValueError(f"fps must be above 0, got {self.fps}.")

  def describe(self) -> str:
    """Describes the features in one line for an evaluation card."""
    if self.timing != "frames":
      return f"{', '.join(self.names)}, timing {self.timing}"
    fps = "the annotations' fps" if self.fps is None else f"{self.fps:g} fps"
    return (
      f"{', '.join(self.names)}, {self.window_frames:g} frames every "
      f"{self.stride_frames:g} from {self.offset_frames:g} at {fps}"
    )


class FileFeatures(Mapping[str, VideoFeatures]):
  """Features of many videos, read on access.

  Up to 2 GiB of the most recently used features stay in memory. All must have
  the same width.
  """

  def __init__(
    self,
    directory: locations.PathLike,
    infos: Sequence[ExampleInfo],
    *,
    files: FeatureFiles,
    num_steps: int | None = None,
    covered_sec: Mapping[str, float] | None = None,
    on_missing: str = "raise",
  ):
    """Finds the videos that have files; reads none.

    Args:
      infos: metadata of the videos of a split.
      files: see `FeatureFiles`.
      num_steps: number of steps to resize each video to by linear
        interpolation; None keeps the lengths.
      covered_sec: seconds from the start that "even" features cover, where this
        is not the whole video.
      on_missing: 'raise', naming the videos without files, or 'skip'.

    Raises:
      FeatureError: files are missing.
      FileNotFoundError: the folder, or the HDF5 file of all videos, is missing.
    """
    self._directory = locations.at(directory)
    self._files = files
    self._num_steps = num_steps
    self._covered_sec = covered_sec or {}
    self._cache: collections.OrderedDict[str, VideoFeatures] = (
      collections.OrderedDict()
    )
    self._num_cached_bytes = 0
    self._lock = threading.Lock()
    self._width: int | None = None
    if not self._directory.is_dir():
      raise FileNotFoundError(
        f"{directory} is not a folder; give the one that holds the features as "
        "data.features_dir."
      )
    self._file_ids = self._available([info.id for info in infos])
    self._infos = {i.id: i for i in infos if i.id in self._file_ids}
    missing = [i.id for i in infos if i.id not in self._file_ids]
    if missing and (on_missing == "raise" or not self._infos):
      tried = ", ".join(name.format(id=missing[0]) for name in files.names)
      raise FeatureError(
        f"{directory} lacks the features of {len(missing)} of {len(infos)} "
        f"videos ({', '.join(missing[:10])}{', ...' if missing[10:] else ''}; "
        f"looked for {tried}); correct data.files.names or data.files.key, or "
        "set data.on_missing to skip"
      )

  def __len__(self) -> int:
    return len(self._infos)

  def __iter__(self) -> Iterator[str]:
    return iter(self._infos)

  def __contains__(self, video_id: object) -> bool:
    return video_id in self._infos

  def __getitem__(self, video_id: str) -> VideoFeatures:
    """Reads and checks one video's features and assigns their times.

    Raises:
      KeyError: the video has no files.
      FeatureError: they are damaged, or differ in width from the others.
    """
    with self._lock:  # batches are read by several threads
      if video_id in self._cache:
        self._cache.move_to_end(video_id)
        return self._cache[video_id]
    video = self._read(self._infos[video_id])
    width = video.features.shape[1]
    if self._width not in (None, width):
      raise FeatureError(
        f"{video_id} has features of width {width}, others {self._width}. If "
        "the files hold (width, time), set data.files.axis_order=dt."
      )
    self._width = width
    self._keep(video_id, video)
    return video

  def file_names(self) -> list[str]:
    """Returns the files of the videos that have features."""
    return sorted(
      {
        name.format(id=file_id)
        for file_id in self._file_ids.values()
        for name in self._files.names
      }
    )

  def _keep(self, video_id: str, video: VideoFeatures) -> None:
    """Caches a video; evicts the least recently used ones."""
    if video.features.nbytes > _MAX_CACHE_BYTES:
      return
    with self._lock:
      if video_id in self._cache:  # another thread has read it, too
        return
      self._cache[video_id] = video
      self._num_cached_bytes += video.features.nbytes
      while self._num_cached_bytes > _MAX_CACHE_BYTES:
        _, oldest = self._cache.popitem(last=False)
        self._num_cached_bytes -= oldest.features.nbytes

  def _available(self, video_ids: Sequence[str]) -> dict[str, str]:
    """Returns the name under which each video has its features.

    This is its id or, if no other video has that id, the id with or without
    `v_` or a file extension, or in another Unicode form.

    Raises:
      FeatureError: a video has features under two such names.
    """
    known = frozenset(video_ids)
    spellings = {
      video_id: [
        name
        for name in video_names.spellings(video_id)
        if name == video_id or name not in known
      ]
      for video_id in dict.fromkeys(video_ids)
    }
    have = self._existing(
      [name for names in spellings.values() for name in names]
    )
    found = {}
    for video_id, names in spellings.items():
      matches = [name for name in names if name in have]
      if video_id in have:
        matches = [video_id]
      if len(matches) > 1:
        raise FeatureError(
          f"{self._directory} has the features of {video_id!r} under "
          f"{matches}; keep one of them"
        )
      if matches:
        found[video_id] = matches[0]
    return found

  def _existing(self, names: Sequence[str]) -> set[str]:
    """Selects the names with all files, or with an entry in the HDF5 file."""
    files = self._files.names
    if "{id}" in "".join(files):
      is_there = self._existence()
      return {
        name
        for name in names
        if all(is_there(self._path(file, name)) for file in files)
      }
    return hdf5_ids(self._directory / files[0], names, key=self._files.key)

  def _existence(self) -> Callable[[locations.Location], bool]:
    """Returns a check for the existence of a file; lists a bucket once."""
    if not isinstance(self._directory, locations.ObjectPath):
      return lambda path: path.is_file()
    there = {self._directory / name for name in self._directory.infos_below()}
    return there.__contains__

  def _path(self, name: str, video_id: str) -> locations.Location:
    """Returns the file of a video; raises if its id leaves the folder."""
    if "/" in video_id or "\\" in video_id or video_id.startswith("."):
      raise FeatureError(
        f"video id {video_id!r} is not a file name; expected no slash "
        "and no dot at its start"
      )
    return self._directory / name.format(id=video_id)

  def _read(self, info: ExampleInfo) -> VideoFeatures:
    files, name_of_files = self._files, self._file_ids[info.id]
    if files.timing == "stored":
      video = load_features(self._directory, name_of_files)
    else:
      key = files.key.format(id=name_of_files) or None
      parts = [
        read_features(
          self._path(name, name_of_files), axis_order=files.axis_order, key=key
        )
        for name in files.names
      ]
      length = min(len(part) for part in parts)
      joined = np.concatenate([part[:length] for part in parts], axis=1)
      video = VideoFeatures(joined, self._grid(info, length))
    if self._num_steps is not None:
      video = resized(video, self._num_steps)
    return video

  def _grid(self, info: ExampleInfo, length: int) -> FeatureGrid:
    files = self._files
    if files.timing == "even":
      stride_sec = self._covered_sec.get(info.id, info.duration_sec) / length
      return FeatureGrid(
        start_sec=0.0, stride_sec=stride_sec, clip_sec=stride_sec
      )
    fps = info.fps if files.fps is None else files.fps
    if not fps > 0:
      raise FeatureError(
        f"the annotations have no fps of {info.id}; give data.files.fps"
      )
    assert files.stride_frames and files.window_frames  # see __post_init__
    return FeatureGrid.from_frames(
      fps=fps,
      stride_frames=files.stride_frames,
      clip_frames=files.window_frames,
      first_frame=files.offset_frames,
    )


def hdf5_ids(
  path: locations.Location, video_ids: Sequence[str], *, key: str
) -> set[str]:
  """Returns the video ids in an HDF5 file of all videos.

  Raises:
    FileNotFoundError: there is no such file.
    FeatureError: it is not an HDF5 file.
  """
  if not path.is_file():
    raise FileNotFoundError(
      f"{path} is missing; correct data.features_dir or data.files.names."
    )
  try:
    with hdf5.open_hdf5(path) as file:
      return {name for name in video_ids if key.format(id=name) in file}
  except hdf5.Hdf5Error as error:
    raise FeatureError(str(error)) from error


def resized(video: VideoFeatures, num_steps: int) -> VideoFeatures:
  """Interpolates features linearly in time to `num_steps`.

  A new feature is a cell of len / num_steps old strides and takes the value at
  the middle of the cell; values beyond the first and the last old feature are
  constant. The grid is scaled accordingly, so that times in seconds are kept.
  """
  length, grid = len(video.features), video.grid
  share = length / num_steps
  position = (np.arange(num_steps) + 0.5) * share - 0.5
  position = position.clip(0, length - 1)
  low = np.minimum(position.astype(np.int64), max(length - 2, 0))
  weight = (position - low)[:, None].astype(np.float32)
  high = np.minimum(low + 1, length - 1)
  features = video.features[low] * (1 - weight) + video.features[high] * weight
  stride_sec = grid.stride_sec * share
  # The cells of the old features begin half a stride before their middles.
  start_sec = grid.start_sec + (grid.clip_sec - grid.stride_sec) / 2
  return VideoFeatures(
    features.astype(np.float32),
    FeatureGrid(
      start_sec=start_sec, stride_sec=stride_sec, clip_sec=stride_sec
    ),
  )
