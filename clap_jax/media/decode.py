"""Decodes clips and whole videos to RGB frames at exact times.

Every function here selects frames by one rule: for each instant the frame of
the video with the nearest time stamp, the earlier one on a tie, the first or
last one outside of the video. The instants of a clip of `num_frames` frames are
start_sec + k * clip_sec / num_frames. A clip decoded after a seek therefore
equals the same clip cut from a sequential decode, bit for bit. Before its first
frame a video shows that frame. A frame after a long still picture is selected
at most half a second early.
"""

import dataclasses
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import NamedTuple

import av
import numpy as np

from clap_jax.media.cuts import CutFinder
from clap_jax.media.errors import VideoError
from clap_jax.media.frames import FrameConverter
from clap_jax.media.limits import DEFAULT_LIMITS, VideoLimits
from clap_jax.media.video_reader import OpenVideo, Video, open_video

_GRID_TOLERANCE_SEC = 1e-6
_MAX_EARLY_SEC = 0.5  # maximum time that a frame is shown early


class DecodedVideo(NamedTuple):
  frames: np.ndarray  # uint8 (t, size, size, 3)
  timestamps: np.ndarray  # float64 (t,), seconds


class DecodedClip(NamedTuple):
  start_sec: float
  frames: np.ndarray  # uint8 (num_frames, size, size, 3)


def clip_instants(
  start_sec: float, clip_sec: float, *, num_frames: int
) -> np.ndarray:
  """Returns the instants of a clip's frames; float64 (num_frames,)."""
  if num_frames < 1 or not clip_sec > 0:
    raise ValueError(
      f"a clip of {clip_sec} s with {num_frames} frames; expected a positive "
      "length and at least one frame"
    )
  return start_sec + np.arange(num_frames) * (clip_sec / num_frames)


def nearest_frames(timestamps: np.ndarray, instants: np.ndarray) -> np.ndarray:
  """Returns indices of the frames nearest to instants; the earlier on a tie."""
  right = np.searchsorted(timestamps, instants).clip(max=len(timestamps) - 1)
  left = (right - 1).clip(min=0)
  early_sec = timestamps[right] - instants
  is_left = instants - timestamps[left] <= early_sec
  return np.where(is_left | (early_sec > _MAX_EARLY_SEC), left, right)


def decode_clip(
  video: Video,
  *,
  start_sec: float,
  clip_sec: float,
  num_frames: int,
  size: int,
  mode: str = "squash",
  limits: VideoLimits = DEFAULT_LIMITS,
) -> np.ndarray:
  """Decodes one clip, from the key frame before it; uint8 (t, size, size, 3).

  Raises:
    VideoError: the video cannot be opened or decoded.
  """
  instants = clip_instants(start_sec, clip_sec, num_frames=num_frames)
  converter = FrameConverter(size=size, mode=mode)
  with open_video(video, limits=limits) as opened:
    frames = opened.frames(start_sec=start_sec)
    chosen = list(_choose(frames, instants, converter))
  if len(chosen) < num_frames:
    raise VideoError("the video has no frames")
  return np.stack(chosen)


def decode_video(
  video: Video,
  *,
  size: int,
  mode: str = "squash",
  max_frames: int = 100_000,
  limits: VideoLimits = DEFAULT_LIMITS,
) -> DecodedVideo:
  """Decodes every frame of a video into memory.

  Raises:
    VideoError: the video cannot be decoded, or has more than `max_frames`.
  """
  converter = FrameConverter(size=size, mode=mode)
  kept: list[np.ndarray] = []
  times: list[float] = []
  with open_video(video, limits=limits) as opened:
    for time, frame in opened.frames():
      if len(kept) >= max_frames:
        raise VideoError(f"more than max_frames = {max_frames} frames")
      kept.append(converter(frame))
      times.append(time)
    opened.finish()
  return DecodedVideo(np.stack(kept), np.asarray(times))


def iter_clips(
  video: Video,
  *,
  clip_sec: float,
  stride_sec: float,
  num_frames: int,
  size: int,
  mode: str = "squash",
  limits: VideoLimits = DEFAULT_LIMITS,
) -> Iterator[DecodedClip]:
  """Streams the clips [i * stride_sec, + clip_sec) within the video.

  This takes one pass and constant memory for any length: only frames of
  incomplete clips are held. A video shorter than `clip_sec` yields one clip,
  its last frame repeated. Clips share no memory with each other.

  Raises:
    VideoError: the video cannot be decoded or, after the last whole clip, is
      truncated or has too many damaged frames.
  """
  shape = ClipShape(clip_sec, stride_sec, num_frames, size, mode)
  with open_video(video, limits=limits) as opened:
    yield from stream_clips(opened, shape)


@dataclasses.dataclass(frozen=True)
class ClipShape:
  """The number, length and frame size of the clips of a video."""

  clip_sec: float
  stride_sec: float
  num_frames: int
  size: int
  mode: str = "squash"

  def __post_init__(self):
    if not self.stride_sec > 0:
      raise ValueError(
        f"stride_sec is {self.stride_sec}; expected a positive number"
      )
    clip_instants(0.0, self.clip_sec, num_frames=self.num_frames)
    FrameConverter(size=self.size, mode=self.mode)  # checks both


@dataclasses.dataclass
class _OpenClip:
  """A clip that lacks frames."""

  start_sec: float
  instants: np.ndarray
  frames: list[np.ndarray]

  @property
  def next_instant(self) -> float:
    return self.instants[len(self.frames)]

  @property
  def is_complete(self) -> bool:
    return len(self.frames) == len(self.instants)


class _Converted:
  """A decoded frame whose pixels are converted once, on first access."""

  def __init__(
    self, time: float, frame: av.VideoFrame, converter: FrameConverter
  ):
    self.time = time
    self._frame = frame
    self._converter = converter
    self._pixels: np.ndarray | None = None

  @property
  def pixels(self) -> np.ndarray:
    if self._pixels is None:
      self._pixels = self._converter(self._frame)
    return self._pixels


def _nearer(
  previous: _Converted | None, current: _Converted, instant: float
) -> np.ndarray:
  """Applies the rule of `nearest_frames` to two frames around an instant."""
  if previous is None:
    return current.pixels
  early_sec = current.time - instant
  if instant - previous.time <= early_sec or early_sec > _MAX_EARLY_SEC:
    return previous.pixels
  return current.pixels


def _choose(
  frames: Iterable[tuple[float, av.VideoFrame]],
  instants: Iterable[float],
  converter: FrameConverter,
) -> Iterator[np.ndarray]:
  """Yields the pixels of each instant's frame; the last one past the end."""
  waiting = iter(instants)
  instant = next(waiting, None)
  previous = None
  for time, frame in frames:
    current = _Converted(time, frame, converter)
    while instant is not None and instant <= time:
      yield _nearer(previous, current, instant)
      instant = next(waiting, None)
    if instant is None:  # avoids reading another frame
      return
    previous = current
  while previous is not None and instant is not None:
    yield previous.pixels
    instant = next(waiting, None)


def stream_clips(
  opened: OpenVideo,
  shape: ClipShape,
  on_cut: Callable[[float], None] | None = None,
) -> Generator[DecodedClip, None, float]:
  """Yields the clips of an open video, as `iter_clips`; returns its duration.

  Args:
    on_cut: called with the time of every cut between two shots.
  """
  find_cut = CutFinder() if on_cut else None
  converter = FrameConverter(size=shape.size, mode=shape.mode)
  clips = _ClipGrid(shape)
  previous = None
  for time, frame in opened.frames():
    current = _Converted(time, frame, converter)
    if find_cut and on_cut and (cut_sec := find_cut(time, frame)) is not None:
      on_cut(cut_sec)
    yield from clips.advance(time, previous, current)
    previous = current
  duration_sec = opened.finish()
  assert previous is not None  # `finish` refuses a video without frames
  # The last frame is shown until the end.
  yield from clips.advance(duration_sec, previous, previous)
  if not clips.num_finished:
    yield clips.only_one(previous)
  return duration_sec


class _ClipGrid:
  """Clips of equal length and distance, filled frame by frame."""

  def __init__(self, shape: ClipShape):
    self._shape = shape
    self._active: list[_OpenClip] = []
    self._num_started = 0
    self.num_finished = 0

  def advance(
    self, time: float, previous: _Converted | None, current: _Converted
  ) -> Iterator[DecodedClip]:
    """Yields clips that are complete at a time, given the frames around it."""
    until = time + _GRID_TOLERANCE_SEC
    self._fill(time, previous, current)
    yield from self._pop(until)
    # One after the other: there may be many between two distant frames.
    while (start_sec := self._num_started * self._shape.stride_sec) <= time:
      instants = clip_instants(
        start_sec, self._shape.clip_sec, num_frames=self._shape.num_frames
      )
      self._active.append(_OpenClip(start_sec, instants, []))
      self._num_started += 1
      self._fill(time, previous, current)
      yield from self._pop(until)

  def _fill(self, time, previous, current) -> None:
    for clip in self._active:
      while not clip.is_complete and clip.next_instant <= time:
        clip.frames.append(_nearer(previous, current, clip.next_instant))

  def _pop(self, until: float) -> Iterator[DecodedClip]:
    while self._active and (
      self._active[0].start_sec + self._shape.clip_sec <= until
    ):
      clip = self._active[0]
      if not clip.is_complete:
        return
      self._active.pop(0)
      self.num_finished += 1
      yield _finish(clip)

  def only_one(self, last: _Converted) -> DecodedClip:
    """Returns the clip of a video that is shorter than a clip."""
    clip = self._active[0]
    missing = len(clip.instants) - len(clip.frames)
    clip.frames.extend([last.pixels] * missing)
    return _finish(clip)


def _finish(clip: _OpenClip) -> DecodedClip:
  return DecodedClip(clip.start_sec, np.stack(clip.frames))
