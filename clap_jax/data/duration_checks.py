"""Compares features and annotations with the durations of their videos.

All checks run before the first step: a run whose evaluation cannot succeed, or
whose annotations use another unit than its features, must not train.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from clap_jax.data.features import FeatureError, FeatureGrid, VideoFeatures
from clap_jax.data.records import ExampleInfo

# Published annotations exceed their videos by up to 1.6 s.
_ANNOTATION_SLACK_SEC = 2.0
_ANNOTATION_SLACK_SHARE = 0.05
# A run continues without misfit videos if they are at most this share.
FEW_SHARE = 0.1
# Bytes read per split; larger splits are sampled.
_MAX_PROBED_BYTES = 1 << 30
_MIN_PROBED_VIDEOS = 32
# Shorter videos, in strides, are poor evidence of the frame rate.
_MIN_STRIDES = 10
_MAX_LISTED = 5


class DataCheckError(ValueError):
  """Raised for features or annotations that do not match their videos."""


def annotation_problem(
  spans: Sequence[tuple[float, float]], duration_sec: float
) -> str | None:
  """Describes the problem of a video's segments; None if there is none.

  Segments of no length are allowed: published files have a few.
  """
  slack_sec = max(_ANNOTATION_SLACK_SEC, _ANNOTATION_SLACK_SHARE * duration_sec)
  for start_sec, end_sec in spans:
    place = f"segment {start_sec:g} to {end_sec:g} s"
    if end_sec < start_sec:
      return f"{place} ends before it starts"
    if start_sec < -0.01:
      return f"{place} starts before the video"
    if max(start_sec, end_sec - slack_sec) > duration_sec:
      return f"{place} ends after the video, which has {duration_sec:g} s"
  return None


def all_annotation_problems(
  spans: Mapping[str, Sequence[tuple[float, float]]],
  duration_sec: Mapping[str, float],
) -> dict[str, str]:
  """Returns `annotation_problems` for any number of videos."""
  found = {
    video: annotation_problem(of_video, duration_sec[video])
    for video, of_video in spans.items()
  }
  return {video: text for video, text in found.items() if text}


def annotation_problems(
  spans: Mapping[str, Sequence[tuple[float, float]]],
  duration_sec: Mapping[str, float],
  *,
  place: str,
) -> dict[str, str]:
  """Returns the problem of the segments of each video, by id.

  Args:
    place: name of the annotations in errors.

  Raises:
    DataCheckError: more than a few videos have problems.
  """
  problems = all_annotation_problems(spans, duration_sec)
  if len(problems) <= FEW_SHARE * len(spans):
    return problems
  beyond = sum(
    any(start_sec > duration_sec[video] for start_sec, _ in of_video)
    for video, of_video in spans.items()
  )
  hint = (
    "The times look like frames or milliseconds: annotations are in seconds "
    "from the start of the video."
    if beyond > len(problems) / 2
    else "Correct them, or name the videos in data.ignored_videos."
  )
  raise DataCheckError(
    f"{place}: the annotations of {len(problems)} of {len(spans)} videos do "
    f"not match their videos:{listed(problems)}\n{hint}"
  )


@dataclasses.dataclass(frozen=True)
class _Span:
  """The span of the features of one video."""

  shape: tuple[int, int]
  grid: FeatureGrid
  duration_sec: float

  def end_sec(self, length: int | None = None) -> float:
    """Returns the end of the first `length` features; None means all."""
    grid, length = self.grid, self.shape[0] if length is None else length
    return grid.start_sec + (length - 1) * grid.stride_sec + grid.clip_sec

  def slack_sec(self, tolerance: float) -> float:
    """Returns the tolerated gap between features and duration, in seconds."""
    one_more_sec = self.grid.stride_sec + self.grid.clip_sec
    return max(tolerance * self.duration_sec, one_more_sec)

  def is_mismatch(self, tolerance: float, *, length: int | None = None) -> bool:
    slack_sec = self.slack_sec(tolerance)
    distance_sec = abs(self.end_sec(length) - self.duration_sec)
    return max(distance_sec, self.grid.start_sec) > slack_sec + 1e-6

  def describe(self) -> str:
    return (
      f"{self.shape[0]} features cover {self.grid.start_sec:.4g} to "
      f"{self.end_sec():.4g} s of {self.duration_sec:.4g} s"
    )


def duration_mismatches(
  features: Mapping[str, VideoFeatures],
  infos: Sequence[ExampleInfo],
  *,
  tolerance: float,
  place: str,
) -> dict[str, str]:
  """Returns how features disagree with durations, by video id.

  Reads up to 1 GiB of the split's features, in random order after the first,
  and at least 32 videos.

  Args:
    tolerance: share of the duration by which a video's features may be too
      short or too long.
    place: name of the features in errors.

  Raises:
    FeatureError: features cannot be read, hold NaN, or disagree with the
      durations of more than a few videos.
  """
  spans = dict(_probe(features, infos))
  problems = {
    video: span.describe()
    for video, span in spans.items()
    if span.is_mismatch(tolerance)
  }
  shares = [
    span.end_sec() / span.duration_sec
    for span in spans.values()
    if span.duration_sec > _MIN_STRIDES * span.grid.stride_sec
  ]
  share = float(np.median(shares)) if shares else 1.0
  if abs(share - 1) > tolerance / 2:  # the same error in all videos
    problems |= {
      video: span.describe()
      for video, span in spans.items()
      if span.is_mismatch(tolerance / 2)
    }
  if len(problems) <= FEW_SHARE * len(spans):
    return problems
  raise FeatureError(
    f"{place}: the features of {len(problems)} of {len(spans)} videos do not "
    f"cover their videos:{listed(problems)}\n"
    + _hint([spans[video] for video in problems])
  )


def _hint(spans: Sequence[_Span]) -> str:
  if all(not span.is_mismatch(0.0, length=span.shape[1]) for span in spans):
    return (
      "As many columns as these files have would cover the videos: they hold "
      "(width, time). Set data.files.axis_order=dt."
    )
  return (
    "Correct data.files.fps, data.files.stride_frames and "
    "data.files.window_frames, or the durations of the annotations. If the "
    "features are meant to cover a part of each video, raise "
    "data.coverage_tolerance."
  )


def _probe(
  features: Mapping[str, VideoFeatures], infos: Sequence[ExampleInfo]
) -> Iterator[tuple[str, _Span]]:
  there = [info for info in infos if info.id in features]
  order = np.random.default_rng(0).permutation(np.arange(1, len(there)))
  num_bytes = 0
  for count, index in enumerate([0, *order] if there else []):
    if num_bytes > _MAX_PROBED_BYTES and count >= _MIN_PROBED_VIDEOS:
      return
    info = there[index]
    video = features[info.id]
    num_bytes += video.features.nbytes
    yield info.id, _Span(video.features.shape, video.grid, info.duration_sec)


def split_flags(data: Any) -> dict[str, str | None]:
  """Returns the splits that a trainer's `data` section names, by key."""
  keys = ("train_split", "selection_split", "eval_split")
  return {f"data.{key}": getattr(data, key) for key in keys}


def check_counts(
  flags: Mapping[str, str | None],
  *,
  count: Callable[[str], int],
  what: str,
  choices: Sequence[str],
) -> None:
  """Checks that no split that the config names is empty.

  Args:
    flags: split by config key; None for no split.
    count: maps a split to its number of items.
    what: name of the items to train on or score against.
    choices: existing splits, for the error.

  Raises:
    ValueError: lists every problem: a split is missing, has nothing to score
      or, if `count` raises a ValueError, cannot be used.
  """
  keys_of: dict[str, list[str]] = {}
  for key, split in flags.items():
    if split is not None:
      keys_of.setdefault(split, []).append(key)
  problems = []
  for split, keys in keys_of.items():
    named = f"{' and '.join(keys)}: got {split!r}"
    try:
      if not count(split):
        problems.append(
          f"{named}, which has no {what}; choose another split "
          f"({', '.join(choices)})."
        )
    except ValueError as error:
      problems.append(f"{named}: {error}")
  if problems:
    raise ValueError("\n".join(problems))


def notes(reader: Any, split: str) -> list[str]:
  """Returns the card's notes on the mismatched videos of a split."""
  train, lines = reader.config.train_split, []
  for name, found in reader.unfit_features.items():
    if found and name in (split, train):
      lines.append(
        f"left out of {name}, features do not match:{listed(found, count=20)}"
      )
  if train in reader.unfit_features and train != split:
    found = reader.unfit_annotations(train)
    if found:
      lines.append(
        "left out of training, annotations do not match:"
        + listed(found, count=20)
      )
  found = all_annotation_problems(
    reader.spans(split),
    {info.id: info.duration_sec for info in reader.examples(split)},
  )
  if found:
    verb = "left out" if split == train else "scored as they are"
    lines.append(f"annotations do not match, {verb}:{listed(found, count=20)}")
  return lines


def listed(problems: Mapping[str, str], *, count: int = _MAX_LISTED) -> str:
  """Formats the first problems, one per line, and the number of others."""
  lines = [f"\n  {video}: {text}" for video, text in problems.items()]
  more = f"\n  and {len(lines) - count} more" if len(lines) > count else ""
  return "".join(lines[:count]) + more


class ExcludingVideos(Mapping[str, VideoFeatures]):
  """Features of a split without some videos."""

  def __init__(
    self, features: Mapping[str, VideoFeatures], left_out: Mapping[str, str]
  ):
    self._features = features
    self._ids = {video: None for video in features if video not in left_out}

  def __len__(self) -> int:
    return len(self._ids)

  def __iter__(self) -> Iterator[str]:
    return iter(self._ids)

  def __contains__(self, video_id: object) -> bool:
    return video_id in self._ids

  def __getitem__(self, video_id: str) -> VideoFeatures:
    if video_id not in self._ids:
      raise KeyError(video_id)
    return self._features[video_id]
