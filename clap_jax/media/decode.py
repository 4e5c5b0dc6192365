"""Clips and whole videos as RGB frames, chosen exactly.

Every function here picks frames by one rule: of all frames of the video, the
one whose time stamp is nearest to a wanted instant, the earlier one on a tie,
the first or last one outside the video. A clip of `num_frames` frames wants
the instants start_sec + k * clip_sec / num_frames. So a clip decoded after a
seek equals the same clip cut from a sequential decode, bit for bit.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import av
import numpy as np

from clap_jax.media.container import (
  DEFAULT_LIMITS,
  FrameConverter,
  OpenVideo,
  Video,
  VideoError,
  VideoLimits,
  open_video,
)

# A file may end this much before the length that its header states.
_END_TOLERANCE_SEC = 1.0
_END_TOLERANCE_FRACTION = 0.05
_GRID_TOLERANCE_SEC = 1e-6


class DecodedVideo(NamedTuple):
  frames: np.ndarray  # uint8 (t, size, size, 3)
  timestamps: np.ndarray  # float64 (t,), seconds from the first frame


class DecodedClip(NamedTuple):
  start_sec: float
  frames: np.ndarray  # uint8 (num_frames, size, size, 3)


def clip_instants(
  start_sec: float, clip_sec: float, *, num_frames: int
) -> np.ndarray:
  """The instants that a clip wants frames of; float64 (num_frames,)."""
  if num_frames < 1 or not clip_sec > 0:
    raise ValueError(
      f"a clip of {clip_sec} s with {num_frames} frames; expected a positive "
      "length and at least one frame"
    )
  return start_sec + np.arange(num_frames) * (clip_sec / num_frames)


def nearest_frames(timestamps: np.ndarray, instants: np.ndarray) -> np.ndarray:
  """Index of the frame nearest to each instant; the earlier one on a tie."""
  right = np.searchsorted(timestamps, instants).clip(max=len(timestamps) - 1)
  left = (right - 1).clip(min=0)
  is_left = instants - timestamps[left] <= timestamps[right] - instants
  return np.where(is_left, left, right)


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
  fps: float | None,
  size: int,
  mode: str = "squash",
  max_frames: int = 100_000,
  limits: VideoLimits = DEFAULT_LIMITS,
) -> DecodedVideo:
  """Decodes a whole video into memory.

  Args:
    video: encoded bytes or a local path.
    fps: frames per second to keep, at instants k / fps up to the last frame;
      None for every frame as it is stored.
    size: height and width in px.
    mode: 'squash' or 'crop'.
    max_frames: more frames than this raise, before they fill the memory.
    limits: caps on what is decoded.

  Raises:
    VideoError: the video cannot be decoded, or has more frames.
  """
  converter = FrameConverter(size=size, mode=mode)
  kept: list[np.ndarray] = []
  times: list[float] = []
  with open_video(video, limits=limits) as opened:
    for time, pixels in _resample(opened.frames(), fps, converter):
      if len(kept) >= max_frames:
        raise VideoError(
          f"more than max_frames = {max_frames} frames; lower the fps or "
          "stream the video clip by clip"
        )
      kept.append(pixels)
      times.append(time)
  if not kept:
    raise VideoError("the video has no frames")
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
  """Streams the clips [i * stride_sec, + clip_sec) that lie in the video.

  One pass and constant memory, whatever the length: only frames of clips that
  are still open are held. A video shorter than `clip_sec` gives one clip, its
  last frame repeated. Clips share no memory with each other.

  Raises:
    VideoError: the video cannot be decoded, or, after the last whole clip,
      breaks off long before the end that its header states.
  """
  if not stride_sec > 0:
    raise ValueError(f"stride_sec is {stride_sec}; expected a positive number")
  clip_instants(0.0, clip_sec, num_frames=num_frames)  # checks its arguments
  converter = FrameConverter(size=size, mode=mode)
  with open_video(video, limits=limits) as opened:
    yield from _stream_clips(
      opened,
      converter,
      clip_sec=clip_sec,
      stride_sec=stride_sec,
      num_frames=num_frames,
    )


@dataclasses.dataclass
class _OpenClip:
  """A clip that still waits for frames."""

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
  """A decoded frame whose pixels are made at most once, when first wanted."""

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
  """The rule of `nearest_frames` for the two frames around an instant."""
  if previous is None:
    return current.pixels
  if instant - previous.time <= current.time - instant:
    return previous.pixels
  return current.pixels


def _choose(
  frames: Iterable[tuple[float, av.VideoFrame]],
  instants: Iterable[float],
  converter: FrameConverter,
) -> Iterator[np.ndarray]:
  """Pixels of the frame nearest to each instant; the last one past the end."""
  waiting = iter(instants)
  instant = next(waiting, None)
  previous = None
  for time, frame in frames:
    if instant is None:
      return
    current = _Converted(time, frame, converter)
    while instant is not None and instant <= time:
      yield _nearer(previous, current, instant)
      instant = next(waiting, None)
    previous = current
  while previous is not None and instant is not None:
    yield previous.pixels
    instant = next(waiting, None)


def _resample(
  frames: Iterable[tuple[float, av.VideoFrame]],
  fps: float | None,
  converter: FrameConverter,
) -> Iterator[tuple[float, np.ndarray]]:
  """(time, pixels) at instants k / fps up to the last frame, or all frames."""
  if fps is not None and not fps > 0:
    raise ValueError(f"fps is {fps}; expected a positive number or None")
  previous = None
  count = 0
  for time, frame in frames:
    current = _Converted(time, frame, converter)
    if fps is None:
      yield time, current.pixels
      continue
    while count / fps <= time:
      yield count / fps, _nearer(previous, current, count / fps)
      count += 1
    previous = current


def _stream_clips(
  opened: OpenVideo,
  converter: FrameConverter,
  *,
  clip_sec: float,
  stride_sec: float,
  num_frames: int,
) -> Iterator[DecodedClip]:
  frame_sec = 1.0 / opened.info.fps if opened.info.fps > 0 else 0.0
  active: list[_OpenClip] = []
  num_started = 0
  previous = None
  for time, frame in opened.frames():
    current = _Converted(time, frame, converter)
    while num_started * stride_sec <= time:
      start_sec = num_started * stride_sec
      instants = clip_instants(start_sec, clip_sec, num_frames=num_frames)
      active.append(_OpenClip(start_sec, instants, []))
      num_started += 1
    for clip in active:
      while not clip.is_complete and clip.next_instant <= time:
        clip.frames.append(_nearer(previous, current, clip.next_instant))
    while (
      active
      and active[0].is_complete
      and (active[0].start_sec + clip_sec <= time + _GRID_TOLERANCE_SEC)
    ):
      yield _finish(active.pop(0))
    previous = current
  if previous is None:
    raise VideoError("the video has no frames")
  yield from _finish_active(active, previous, clip_sec, frame_sec)
  _check_end(previous.time + frame_sec, opened.info.duration_sec)


def _finish_active(
  active: list[_OpenClip],
  last: _Converted,
  clip_sec: float,
  frame_sec: float,
) -> Iterator[DecodedClip]:
  """The clips that end with the video, and the only one of a short video."""
  end_sec = last.time + frame_sec + _GRID_TOLERANCE_SEC
  for clip in active:
    if clip.start_sec + clip_sec > end_sec and clip.start_sec > 0:
      return
    missing = len(clip.instants) - len(clip.frames)
    clip.frames.extend([last.pixels] * missing)
    yield _finish(clip)


def _finish(clip: _OpenClip) -> DecodedClip:
  return DecodedClip(clip.start_sec, np.stack(clip.frames))


def _check_end(end_sec: float, stated_sec: float) -> None:
  tolerance_sec = max(_END_TOLERANCE_SEC, _END_TOLERANCE_FRACTION * stated_sec)
  if end_sec < stated_sec - tolerance_sec:
    raise VideoError(
      f"the video breaks off after {end_sec:.2f} of {stated_sec:.2f} s; it "
      "may be half downloaded"
    )
