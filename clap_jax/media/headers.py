"""Reads a video's container metadata without decoding."""

import dataclasses
import re

import av.container
import av.stream
import av.video.stream

from clap_jax.media.errors import VideoError
from clap_jax.media.limits import VideoLimits

# Formats whose length is estimated from the end of the file, not stated.
_ESTIMATED_FORMATS = ("mpegts", "mpeg", "ogg", "gif")
_CLOCK = re.compile(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)")
_FALLBACK_FPS = 25.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoInfo:
  """Metadata of the video stream as the container states it."""

  duration_sec: float | None  # from zero to the end; None if not stated
  fps: float  # on average
  frame_sec: float  # between two frames where the picture moves
  num_frames: int  # duration times rate if not stated
  height: int
  width: int
  pixel_aspect: float  # width of a pixel by its height
  codec: str
  container: str
  stream: int  # number of the default video stream in the file


def is_default(stream: av.video.stream.VideoStream) -> bool:
  flags = av.stream.Disposition
  return flags.default in stream.disposition and (
    flags.attached_pic not in stream.disposition  # a cover
  )


def describe(
  container: av.container.InputContainer,
  stream: av.video.stream.VideoStream,
  demuxer: str,
  zero_sec: float,
) -> tuple[VideoInfo, float | None, bool]:
  """Returns the metadata, and the end to compare with the frames.

  Args:
    demuxer: name of the format.
    zero_sec: the player's time of the stream's tick 0.

  Returns:
    The metadata; the stated end or None; and whether that end is of the video
    stream alone: sound may outlast the picture.
  """
  average = float(stream.average_rate or stream.guessed_rate or 0)
  nominal = float(stream.guessed_rate or stream.average_rate or _FALLBACK_FPS)
  end_sec = None
  is_own = True
  clock = _CLOCK.match(stream.metadata.get("DURATION", ""))
  if demuxer == "avi" and stream.frames and average:
    # The length shrinks if the file is truncated, the count does not.
    end_sec = stream.frames / average
  elif clock and demuxer == "matroska":
    hours, minutes, seconds = (float(part) for part in clock.groups())
    end_sec = hours * 3600 + minutes * 60 + seconds + zero_sec
  elif stream.duration:
    assert stream.time_base  # an open video has one
    end = (stream.start_time or 0) + stream.duration
    end_sec = float(end * stream.time_base) + zero_sec
  elif container.duration:
    start = container.start_time or 0
    end_sec = (start + container.duration) / av.time_base + zero_sec
    is_own = len(container.streams) == 1
  info = VideoInfo(
    duration_sec=end_sec,
    fps=average,
    frame_sec=1.0 / nominal,
    num_frames=stream.frames or round((end_sec or 0.0) * average),
    height=stream.height,
    width=stream.width,
    pixel_aspect=float(stream.sample_aspect_ratio or 0) or 1.0,
    codec=stream.codec_context.name,
    container=demuxer,
    stream=stream.index,
  )
  is_estimate = demuxer in _ESTIMATED_FORMATS
  return info, None if is_estimate else end_sec, is_own


def check_claims(
  info: VideoInfo, limits: VideoLimits, *, has_length: bool
) -> None:
  if info.height < 1 or info.width < 1:
    raise VideoError(
      f"frames of {info.width} x {info.height} pixels; expected at least 1 x 1"
    )
  if info.height * info.width > limits.max_pixels:
    raise VideoError(
      f"frames of {info.width} x {info.height} pixels; the limit is "
      f"{limits.max_pixels} in total; transcode the video to a smaller size"
    )
  if not has_length:
    return
  if info.num_frames > limits.max_frames:
    raise VideoError(
      f"{info.num_frames} frames; the limit is {limits.max_frames}"
    )
  duration_sec = info.duration_sec or 0.0
  if not duration_sec <= limits.max_duration_sec:
    raise VideoError(
      f"{duration_sec:.0f} s long; the limit is {limits.max_duration_sec} s"
    )
