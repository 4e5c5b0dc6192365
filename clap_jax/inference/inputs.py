"""Finds and reads the videos and feature files named in a command."""

import os
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from clap_jax.data import features
from clap_jax.media import formats
from clap_jax.storage import arrays

FEATURE_SUFFIXES = (".npy", ".npz", ".h5", ".hdf5", ".csv")
_TIMING_KEYS = ("fps", "stride_frames", "window_frames", "offset_frames")
_TIMING = "fps=30,stride_frames=4,window_frames=16,offset_frames=0"
_STORED_KEYS = ("features", "start_sec", "stride_sec", "clip_sec")


class InputFiles(NamedTuple):
  """Input files found for the arguments of a command."""

  files: list[pathlib.Path]
  failed: list[dict]  # {"video", "reason"}
  num_skipped: int  # other files of folders, without hidden ones


def find(arguments: Iterable[str | os.PathLike]) -> InputFiles:
  """Lists the given files, and the videos below the given folders, sorted.

  Links that lead out of a folder are not followed but listed as failed.

  Raises:
    FileNotFoundError: if a folder contains no video.
  """
  files: list[pathlib.Path] = []
  failed: list[dict] = []
  num_skipped = 0
  for argument in arguments:
    path = pathlib.Path(argument)
    if not path.is_dir():
      files.append(path)
      continue
    found = find_in(path)
    files += found.files
    failed += found.failed
    num_skipped += found.num_skipped
  return InputFiles(files, failed, num_skipped)


def find_in(folder: str | os.PathLike) -> InputFiles:
  """Lists the videos below a folder; see `find`.

  Raises:
    FileNotFoundError: if the folder does not exist or contains no video.
  """
  folder = pathlib.Path(folder)
  if not folder.is_dir():
    raise FileNotFoundError(f"{folder} is not a folder; name one with videos.")
  videos = formats.list_videos(folder)
  if not videos:
    raise FileNotFoundError(
      f"{folder} contains no videos; expected {', '.join(formats.SUFFIXES)}."
    )
  root = folder.resolve()
  inside = {video for video in videos if _is_inside(video, root)}
  reason = "a link that leads out of the folder is not followed"
  return InputFiles(
    files=[video for video in videos if video in inside],
    failed=[
      {"video": str(video), "reason": reason}
      for video in videos
      if video not in inside
    ],
    num_skipped=_num_others(folder, videos),
  )


def _is_inside(path: pathlib.Path, root: pathlib.Path) -> bool:
  try:
    return path.resolve().is_relative_to(root)
  except (OSError, RuntimeError):  # circular links
    return False


def _num_others(folder: pathlib.Path, videos: list[pathlib.Path]) -> int:
  visible = (
    path
    for path in folder.rglob("*")
    if not any(p.startswith(".") for p in path.relative_to(folder).parts)
  )
  return sum(path.is_file() for path in visible) - len(videos)


def are_features(path: str | os.PathLike) -> bool:
  """Returns True for the name of a feature file."""
  return pathlib.PurePath(path).suffix.lower() in FEATURE_SUFFIXES


def parse_timing(text: str) -> dict[str, float]:
  """Parses the value of --feature_timing; every key is optional.

  Raises:
    ValueError: if a key is unknown or its value is not a valid number.
  """
  timing = {}
  for part in text.split(","):
    key, _, value = part.partition("=")
    match = re.fullmatch(r"\s*\d{1,9}(\.\d{1,9})?\s*", value)
    number = float(value) if match else -1.0
    may_be_zero = key.strip() == "offset_frames"
    is_allowed = number > 0 or (number == 0 and may_be_zero)
    if key.strip() not in _TIMING_KEYS or not is_allowed:
      raise ValueError(
        f"--feature_timing: got {part!r}; expected a form like {_TIMING}, with "
        "all values but offset_frames above 0."
      )
    timing[key.strip()] = number
  return timing


def read_features(
  path: pathlib.Path,
  heads: Mapping[str, Mapping[str, Any]],
  *,
  timing: Mapping[str, float],
) -> features.VideoFeatures:
  """Reads the features of one video for some heads.

  Args:
    heads: maps the name of each requested head to its metadata.
    timing: result of `parse_timing`; takes precedence over the metadata.

  Raises:
    ValueError: if the file cannot be read, has another width than the heads
      were trained on, or its timing is unknown.
  """
  found: features.VideoFeatures | None = None
  for name, metadata in heads.items():
    video = _read_for(path, name, metadata, timing)
    if found is not None and video.grid != found.grid:
      raise ValueError(
        f"{path}: the heads were trained on different timings, {found.grid} "
        f"and {video.grid}; pass --feature_timing {_TIMING}."
      )
    found = video
  assert found is not None
  return found


def _read_for(path, name: str, metadata, timing) -> features.VideoFeatures:
  files = metadata.get("files") or {}
  if not timing and files.get("timing", "stored") == "stored":
    video = _read_stored(path, metadata)
  else:
    grid = _grid_of_frames(path, files, timing)
    video = features.VideoFeatures(_read_array(path, files), grid)
  width, expected = video.features.shape[1], metadata["feature_width"]
  if width != expected:
    joined = files.get("names", ())
    raise ValueError(
      f"{path} has features of width {width}, but the {name} was trained on "
      f"width {expected}"
      + (
        f", joined from {' and '.join(joined)}, which must be in its folder"
        if joined[1:]
        else ""
      )
      + "; pass such features."
    )
  return video


def _read_array(path: pathlib.Path, files: Mapping[str, Any]) -> np.ndarray:
  """Reads the features (t, d) of a file and of the video's other streams."""
  key = files.get("key") or None
  parts = [
    features.read_features(
      part,
      axis_order=files.get("axis_order", "td"),
      # A file of one video has a single array, which needs no key.
      key=None if key and "{id}" in key else key,
    )
    for part in stream_paths(path, files.get("names", ()))
  ]
  length = min(len(part) for part in parts)
  return np.concatenate([part[:length] for part in parts], axis=1)


def stream_paths(
  path: pathlib.Path, names: Sequence[str]
) -> list[pathlib.Path]:
  """Lists the files of all feature streams of a video.

  Args:
    names: path of each stream's file below a common folder, with {id}.

  Returns:
    Only `path` if there is one stream, the path matches no name, or another
    stream's file is missing.
  """
  given = path.absolute()
  for name in names if len(names) > 1 else ():
    pattern = re.escape(name).replace(re.escape("{id}"), "(?P<id>[^/]+)", 1)
    match = re.fullmatch(f"(?P<folder>/.*?/?){pattern}", given.as_posix())
    # Names are part of a model; they must not lead out of the folder.
    if match and not any(
      pathlib.PurePath(n).is_absolute() or ".." in pathlib.PurePath(n).parts
      for n in names
    ):
      folder = pathlib.Path(match["folder"])
      found = [folder / n.replace("{id}", match["id"]) for n in names]
      if all(file.is_file() for file in found):
        return found
  return [path]


def _read_stored(path: pathlib.Path, metadata) -> features.VideoFeatures:
  """Reads features with the timing in their file or in the metadata."""
  if path.suffix.lower() == ".npz":
    with arrays.open_npz(path) as archive:
      is_stored = all(key in archive for key in _STORED_KEYS)
    if is_stored:
      return features.load_file(path)
  stride_sec, clip_sec = metadata.get("stride_sec"), metadata.get("clip_sec")
  if not stride_sec or not clip_sec:
    raise ValueError(
      f"{path}: neither the file nor the head's metadata has the timing of the "
      f"features; pass --feature_timing {_TIMING}."
    )
  grid = features.FeatureGrid(
    start_sec=0.0, stride_sec=stride_sec, clip_sec=clip_sec
  )
  return features.VideoFeatures(_read_array(path, {}), grid)


def _grid_of_frames(path, files, timing) -> features.FeatureGrid:
  stated = files if files.get("timing") == "frames" else {}
  given = {**stated, **timing}
  values = {
    key: given[key] for key in _TIMING_KEYS if given.get(key) is not None
  }
  values.setdefault("offset_frames", 0.0)
  missing = [key for key in _TIMING_KEYS if key not in values]
  if missing:
    raise ValueError(
      f"{path}: the head's metadata lacks {', '.join(missing)}; pass "
      f"--feature_timing {_TIMING}."
    )
  return features.FeatureGrid.from_frames(
    fps=values["fps"],
    stride_frames=values["stride_frames"],
    clip_frames=values["window_frames"],
    first_frame=values["offset_frames"],
  )


def estimated_duration_sec(video: features.VideoFeatures) -> float:
  """Returns the duration of the video, exact to half a stride.

  The video ends between the end of the last feature and the end that a further
  feature would have.
  """
  grid = video.grid
  last_sec = grid.start_sec + (len(video.features) - 1) * grid.stride_sec
  return last_sec + grid.clip_sec + grid.stride_sec / 2
