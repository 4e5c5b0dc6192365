"""Opening video files that nobody vouches for, and walking their frames.

The decoder is given bytes or a file that we opened, never a name: FFmpeg
resolves names such as `http:` or `concat:` and playlists on its own. The
container is recognised from its first bytes and its demuxer forced; nested
files have no protocol to be opened with; size, frames and duration have caps.
"""

import contextlib
import dataclasses
import io
import math
import os
import re
import stat
from collections.abc import Iterator
from typing import BinaryIO

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

Video = bytes | str | os.PathLike

# "tsp_whole" is what "tsp" cuts its centre from, for a random cut of one's own.
RESIZE_MODES = ("squash", "crop", "tsp", "tsp_whole")
# What TSP resizes a frame to before it cuts out 112 x 112 px.
_TSP_HEIGHT, _TSP_WIDTH, _TSP_SIZE = 128, 171, 112
# Bit-exact scaling gives equal pixels on machines with other vector units.
_INTERPOLATION = (
  Interpolation.BILINEAR | Interpolation.BITEXACT | Interpolation.ACCURATE_RND
)
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")
_SNIFF_BYTES = 400


class VideoError(ValueError):
  """A video that cannot be opened, is not acceptable, or breaks off."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoLimits:
  """Caps on what is decoded; header claims are checked before, facts during."""

  max_pixels: int = 4096 * 2304  # of one frame
  max_frames: int = 5_000_000
  max_duration_sec: float = 24 * 3600.0
  max_bytes: int = 64 << 30


DEFAULT_LIMITS = VideoLimits()


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoInfo:
  """What the container says of its first video stream, nothing decoded."""

  duration_sec: float
  fps: float
  num_frames: int  # stated, or duration times rate where not stated
  height: int
  width: int
  codec: str
  container: str


class OpenVideo:
  """An open container with one video stream; frame times start at 0."""

  def __init__(
    self,
    container: av.container.InputContainer,
    *,
    demuxer: str,
    limits: VideoLimits,
  ):
    self._container = container
    self._limits = limits
    self._stream = container.streams.video[0]
    if self._stream.codec_context is None or not self._stream.time_base:
      raise VideoError("the video stream's codec or time base is unknown")
    self._stream.codec_context.thread_count = 1
    self._seconds_per_tick = float(self._stream.time_base)
    self._first_tick = self._stream.start_time or 0
    self.info = _describe(container, self._stream, demuxer)
    _check_limits(self.info, limits)

  def frames(
    self, *, start_sec: float = 0.0
  ) -> Iterator[tuple[float, av.VideoFrame]]:
    """Yields (time in seconds, frame) from a key frame at or before the start.

    The first frame yielded is not later than `start_sec` unless it is the
    first of the video. Frames without a time stamp are an error.

    Raises:
      VideoError: the data cannot be decoded, or passes a limit.
    """
    if start_sec > 0:
      tick = self._first_tick + int(start_sec / self._seconds_per_tick)
      self._seek(tick)
      walk = self._walk()
      first = next(walk, None)
      if first is not None and first[0] <= start_sec:
        yield first
        yield from walk
        return
      # An index that lies, or a start beyond the end: take the long way.
      walk.close()
      self._seek(self._first_tick)
    yield from self._walk()

  def _seek(self, tick: int) -> None:
    try:
      self._container.seek(tick, stream=self._stream, backward=True)
    except av.error.FFmpegError:
      with _errors_named("cannot seek in the video"):
        self._container.seek(0, backward=True)

  def _walk(self) -> Iterator[tuple[float, av.VideoFrame]]:
    previous = -math.inf
    with _errors_named("cannot decode the video"):
      for count, frame in enumerate(self._container.decode(self._stream)):
        if frame.pts is None:
          raise VideoError("a frame has no time stamp; transcode the video")
        if frame.width * frame.height > self._limits.max_pixels:
          raise VideoError(
            f"a frame has {frame.width} x {frame.height} pixels, the limit "
            f"is {self._limits.max_pixels} in all"
          )
        if count >= self._limits.max_frames:
          raise VideoError(f"more than {self._limits.max_frames} frames")
        time = (frame.pts - self._first_tick) * self._seconds_per_tick
        if time < previous or time > self._limits.max_duration_sec:
          raise VideoError(
            f"time stamps jump from {previous} to {time} s; transcode the video"
          )
        previous = time
        yield time, frame


def frame_sides(size: int, mode: str) -> tuple[int, int]:
  """Height and width of what FrameConverter makes, in px."""
  if mode != "tsp_whole":
    return size, size
  return (
    round(size * _TSP_HEIGHT / _TSP_SIZE),
    round(size * _TSP_WIDTH / _TSP_SIZE),
  )


class FrameConverter:
  """Turns decoded frames into uint8 (size, size, 3) RGB arrays.

  Mode 'squash' ignores the aspect ratio; 'crop' scales the short side to the
  size and keeps the centre; 'tsp' resizes to 128 x 171 px, whatever the aspect
  ratio, and keeps the central 112 x 112 (other sizes in proportion), as TSP
  (Alwassel et al.) does. A rotation stored beside the stream is applied.
  """

  def __init__(self, *, size: int, mode: str = "squash"):
    if mode not in RESIZE_MODES:
      raise ValueError(f"unknown mode {mode!r}; choose from {RESIZE_MODES}")
    if size < 1:
      raise ValueError(f"size is {size} px; expected at least 1")
    self._size = size
    self._mode = mode
    self._reformatter = VideoReformatter()

  def __call__(self, frame: av.VideoFrame) -> np.ndarray:
    height = width = self._size
    quarters = frame.rotation // 90 if frame.rotation % 90 == 0 else 0
    if self._mode.startswith("tsp"):
      height, width = frame_sides(self._size, "tsp_whole")
      if quarters % 2:  # it is turned below
        height, width = width, height
    if self._mode == "crop":
      scale = self._size / min(frame.height, frame.width)
      height = max(self._size, round(frame.height * scale))
      width = max(self._size, round(frame.width * scale))
    with _errors_named("cannot convert a frame"):
      scaled = self._reformatter.reformat(
        frame,
        width=width,
        height=height,
        format="rgb24",
        interpolation=_INTERPOLATION,
        threads=1,
      )
      pixels = scaled.to_ndarray()
    if self._mode != "tsp_whole":
      top, left = (height - self._size) // 2, (width - self._size) // 2
      pixels = pixels[top : top + self._size, left : left + self._size]
    return np.ascontiguousarray(np.rot90(pixels, k=quarters))


@contextlib.contextmanager
def open_video(
  video: Video, *, limits: VideoLimits = DEFAULT_LIMITS
) -> Iterator[OpenVideo]:
  """Opens encoded bytes or a local path.

  Raises:
    VideoError: not a local regular file, not a known container, no video
      stream, or beyond a limit.
  """
  with contextlib.ExitStack() as stack:
    file = stack.enter_context(_open_bytes(video, limits))
    demuxer = _sniff_demuxer(file)
    with _errors_named("cannot open the video"):
      container = av.open(
        file,
        mode="r",
        format=demuxer,
        # No protocol of this name exists, so nothing nested can be opened.
        options={"protocol_whitelist": "none", "format_whitelist": demuxer},
      )
    stack.enter_context(container)
    if not container.streams.video:
      raise VideoError("the file has no video stream")
    with _errors_named("cannot read the video's header"):
      opened = OpenVideo(container, demuxer=demuxer, limits=limits)
    yield opened


def probe(video: Video, *, limits: VideoLimits = DEFAULT_LIMITS) -> VideoInfo:
  """What the container says of its video; decodes nothing.

  Raises:
    VideoError: as `open_video`.
  """
  with open_video(video, limits=limits) as opened:
    return opened.info


@contextlib.contextmanager
def _errors_named(what: str) -> Iterator[None]:
  """FFmpeg's many exceptions become VideoError with a reason."""
  try:
    yield
  except (av.error.FFmpegError, MemoryError, OSError, IndexError) as error:
    raise VideoError(f"{what}: {type(error).__name__}: {error}") from error
  except ValueError as error:
    if isinstance(error, VideoError):
      raise
    raise VideoError(f"{what}: {error}") from error


def _open_bytes(video: Video, limits: VideoLimits) -> BinaryIO:
  if isinstance(video, bytes | bytearray | memoryview):
    num_bytes = len(video)
    file: BinaryIO = io.BytesIO(video)
  else:
    file = _open_local_file(video)
    num_bytes = os.fstat(file.fileno()).st_size
  if num_bytes > limits.max_bytes:
    file.close()
    raise VideoError(
      f"the file has {num_bytes} bytes, the limit is {limits.max_bytes}"
    )
  return file


def _open_local_file(path: str | os.PathLike) -> BinaryIO:
  name = os.fspath(path)
  if not isinstance(name, str) or not name or "\0" in name:
    raise VideoError(f"{name!r} is not a file name")
  if _URL.match(name):
    raise VideoError(
      f"{name!r} looks like a URL or an FFmpeg protocol; expected the path of "
      "a local file (write ./ before a name with a colon)"
    )
  try:
    # Without O_NONBLOCK, opening a pipe would wait for its writer for ever.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
    descriptor = os.open(name, flags)
  except OSError as error:
    raise VideoError(f"cannot open {name!r}: {error.strerror}") from error
  if not stat.S_ISREG(os.fstat(descriptor).st_mode):
    os.close(descriptor)
    raise VideoError(f"{name!r} is not a regular file")
  return os.fdopen(descriptor, "rb")


def _sniff_demuxer(file: BinaryIO) -> str:
  head = file.read(_SNIFF_BYTES)
  file.seek(0)
  if head[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide"):
    return "mov"
  if head[:4] == b"\x1a\x45\xdf\xa3":
    return "matroska"
  if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
    return "avi"
  if head[:1] == b"\x47" and head[188:189] == b"\x47":
    return "mpegts"
  raise VideoError(
    "the first bytes are of no accepted container (mp4, mov, mkv, webm, avi, "
    f"ts): {head[:12]!r}; transcode the video to mp4"
  )


def _describe(
  container: av.container.InputContainer,
  stream: av.video.stream.VideoStream,
  demuxer: str,
) -> VideoInfo:
  fps = float(stream.average_rate or stream.guessed_rate or 0)
  if stream.duration:
    duration_sec = float(stream.duration * stream.time_base)
  elif container.duration:
    duration_sec = container.duration / av.time_base
  else:
    duration_sec = stream.frames / fps if fps else 0.0
  return VideoInfo(
    duration_sec=duration_sec,
    fps=fps,
    num_frames=stream.frames or round(duration_sec * fps),
    height=stream.height,
    width=stream.width,
    codec=stream.codec_context.name,
    container=demuxer,
  )


def _check_limits(info: VideoInfo, limits: VideoLimits) -> None:
  if info.height < 1 or info.width < 1:
    raise VideoError(f"frames of {info.width} x {info.height} pixels")
  if info.height * info.width > limits.max_pixels:
    raise VideoError(
      f"frames of {info.width} x {info.height} pixels, the limit is "
      f"{limits.max_pixels} in all; transcode the video to a smaller size"
    )
  if info.num_frames > limits.max_frames:
    raise VideoError(
      f"{info.num_frames} frames, the limit is {limits.max_frames}"
    )
  if not math.isfinite(info.duration_sec) or (
    info.duration_sec > limits.max_duration_sec
  ):
    raise VideoError(
      f"{info.duration_sec} s long, the limit is {limits.max_duration_sec} s"
    )
