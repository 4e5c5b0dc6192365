"""Opens untrusted video files and iterates over their frames.

The decoder receives bytes or an open file, never a name: FFmpeg resolves names
such as `http:` or `concat:` and playlists on its own. The container is
recognised by its first bytes and its demuxer forced; no protocol can open
nested files; size, frames, duration and gaps are limited.

Time counts from a player's zero. In mp4, mov and Matroska that is the zero of
the file's timeline, after edit lists: a video stream may start later, and
nothing is shown before. In other formats, whose time stamps start anywhere, it
is the earliest start of any stream.
"""

import contextlib
import dataclasses
import io
import math
import os
from collections.abc import Generator, Iterator
from fractions import Fraction
from typing import Any, BinaryIO, NamedTuple

import av
import av.container
import av.error

from clap_jax.media import errors, formats, headers, structure
from clap_jax.media.errors import VideoError
from clap_jax.media.headers import VideoInfo
from clap_jax.media.limits import DEFAULT_LIMITS, VideoLimits
from clap_jax.storage import placeholders, untrusted

Video = bytes | str | os.PathLike | io.BufferedIOBase

# Increased if a video gets other times or frames; invalidates caches.
READER_VERSION = 2
# A video with more damaged frames than this share is refused.
MAX_DAMAGED_SHARE = 0.02
# A video may end this much before its stated end.
_CUT_SHARE, _CUT_SEC = 0.05, 0.25
# Steps back in time up to this are jitter, larger ones a restart.
_JITTER_SEC = 0.5
# In these formats a step forward of more than this is a restart too: recordings
# that were joined byte by byte. FFmpeg's own tools assume the same.
_JOINED_FORMATS, _JOIN_SEC = ("mpegts", "mpeg"), 10.0
_OWN_ZERO_FORMATS = ("mov", "matroska")
# Formats with an index of key frames; others are decoded from the start.
_SEEKABLE_FORMATS = ("mov", "matroska", "avi")
# Damaged frames tolerated beyond the share until the end is reached.
_EARLY_DAMAGED = 10


@dataclasses.dataclass
class Findings:
  """Counts and times found while decoding."""

  packets: int = 0
  decoded: int = 0
  lost: int = 0  # packets that do not decode
  corrupt: int = 0  # frames marked as damaged by the decoder
  hidden: int = 0  # frames that an edit list hides
  joins: int = 0  # restarts of the time stamps
  longest_gap_sec: float = 0.0  # between the starts of two frames
  end_sec: float = 0.0  # of the last frame
  packets_end_sec: float = -math.inf  # of the last packet of the video
  file_end_sec: float = -math.inf  # of the last packet of any stream

  @property
  def damaged(self) -> int:
    return self.lost + self.corrupt


class PacketPlace(NamedTuple):
  """An encoded frame in its file."""

  time_sec: float
  start: int  # in bytes; -1 if unknown
  num_bytes: int
  is_key: bool


class OpenVideo:
  """An open container with one video stream; time is as in the module."""

  def __init__(
    self,
    container: av.container.InputContainer,
    *,
    demuxer: str,
    limits: VideoLimits,
    is_whole: bool | None,
  ):
    self._container = container
    self._limits = limits
    self._is_whole = is_whole
    # The stream with the default flag, else the largest.
    stream = container.streams.best("video")
    if not isinstance(stream, av.VideoStream):
      raise VideoError("the file has no video stream")
    flagged = [s for s in container.streams.video if headers.is_default(s)]
    self._stream = flagged[0] if flagged else stream
    if self._stream.codec_context is None or not self._stream.time_base:
      raise VideoError("the video stream's codec or time base is unknown")
    self._stream.codec_context.thread_count = 1
    self._time_base = self._stream.time_base
    self._zero_tick = self._find_zero(demuxer)
    self.info, self.claimed_end_sec, self.is_own_claim = headers.describe(
      container, self._stream, demuxer, self._to_sec(0)
    )
    self.found = Findings()
    # An estimate for joined recordings may be wrong by hours.
    is_claim = self.claimed_end_sec is not None
    headers.check_claims(self.info, limits, has_length=is_claim)

  def _to_sec(self, tick: int) -> float:
    return (tick - self._zero_tick) * float(self._time_base)

  def _find_zero(self, demuxer: str) -> int:
    starts = [
      s.start_time * s.time_base
      for s in self._container.streams
      if s.start_time is not None and s.time_base
    ]
    start = min(starts, default=Fraction(0))
    # A file that starts hours late is a part of a longer recording.
    if demuxer in _OWN_ZERO_FORMATS and 0 <= start <= self._limits.max_gap_sec:
      return 0
    return round(start / self._time_base)

  def frames(
    self, *, start_sec: float = 0.0
  ) -> Iterator[tuple[float, av.VideoFrame]]:
    """Yields (time in seconds, frame) from a key frame at or before the start.

    The first frame yielded is not later than `start_sec` unless it is the
    first of the video. Time never decreases: if time stamps restart, as in
    joined recordings, the parts follow each other.

    Raises:
      VideoError: the data cannot be decoded, too many frames are damaged, or
        a limit is exceeded.
    """
    if start_sec > 0 and self.info.container in _SEEKABLE_FORMATS:
      tick = self._zero_tick + int(start_sec / float(self._time_base))
      self._seek(tick)
      walk = self._walk()
      first = next(walk, None)
      if first is not None and first[0] <= start_sec:
        yield first
        yield from walk
        return
      # The index is wrong, or the start beyond the end: decode everything.
      walk.close()
      self._seek(self._zero_tick)
    yield from self._walk()

  def _seek(self, tick: int) -> None:
    try:
      self._container.seek(tick, stream=self._stream, backward=True)
    except av.error.FFmpegError:
      with errors.named("cannot seek in the video"):
        self._container.seek(0, backward=True)

  def _walk(self) -> Generator[tuple[float, av.VideoFrame], None, None]:
    found = self.found = Findings()
    previous, shift_sec = 0.0, 0.0
    for frame in self._decoded():
      frame_sec = self._frame_sec(frame)
      if frame.pts is None:  # directly after the previous frame
        time = found.end_sec
      else:
        time = self._to_sec(frame.pts) + shift_sec
      if found.decoded and self._is_restart(time - previous):
        shift_sec += found.end_sec - time
        found.joins += 1
        time = found.end_sec
      elif found.decoded:
        time = max(time, previous)
        found.longest_gap_sec = max(found.longest_gap_sec, time - previous)
      self._check_time(previous, time, frame_sec)
      previous = time
      found.decoded += 1
      found.corrupt += bool(frame.is_corrupt)
      found.end_sec = time + frame_sec
      if found.decoded > self._limits.max_frames:
        raise VideoError(
          f"more frames than the limit of {self._limits.max_frames}"
        )
      yield time, frame

  def _frame_sec(self, frame: av.VideoFrame) -> float:
    if frame.duration:
      return frame.duration * float(self._time_base)
    return self.info.frame_sec

  def _is_restart(self, step_sec: float) -> bool:
    is_forward = self.info.container in _JOINED_FORMATS
    return step_sec < -_JITTER_SEC or (is_forward and step_sec > _JOIN_SEC)

  def _check_time(self, previous: float, time: float, frame_sec: float) -> None:
    limits = self._limits
    for gap_sec, what in ((time - previous, "before"), (frame_sec, "after")):
      if gap_sec > limits.max_gap_sec:
        raise VideoError(
          f"no new frame for {gap_sec:.0f} s {what} {time:.2f} s; the limit "
          f"is {limits.max_gap_sec:.0f} s"
        )
    if time > limits.max_duration_sec:
      raise VideoError(f"longer than the limit of {limits.max_duration_sec} s")

  def _decoded(self) -> Iterator[av.VideoFrame]:
    """Yields frames in presentation order; skips damaged packets."""
    for packet in self._packets():
      try:
        with errors.named("cannot decode the video"):
          frames = packet.decode()
      except VideoError as error:
        if not isinstance(error.__cause__, av.error.InvalidDataError):
          raise
        self.found.lost += 1
        if self.claimed_end_sec and self.info.num_frames:
          # Fails early; a truncated file may have a few damaged frames.
          self._check_damage(self.info.num_frames, more=_EARLY_DAMAGED)
        continue
      for frame in frames:
        if frame.width * frame.height > self._limits.max_pixels:
          raise VideoError(
            f"a frame has {frame.width} x {frame.height} pixels; the limit "
            f"is {self._limits.max_pixels} in total"
          )
        yield frame

  def _packets(self) -> Iterator[av.Packet]:
    """Yields the packets of the video stream, then an empty one.

    All streams are read, to find the end of the file. An error of the container
    ends the file unless more packets follow it.
    """
    found, is_broken = self.found, False
    while True:
      try:
        for packet in self._container.demux():
          is_broken = False
          if packet.stream.index == self._stream.index:
            is_flush = packet.pts is None and packet.dts is None
            # A packet without data repeats the previous frame.
            if packet.size or is_flush:
              found.packets += bool(packet.size)
              found.hidden += bool(packet.size) and packet.is_discard
              found.packets_end_sec = max(
                found.packets_end_sec, self._end_of(packet)
              )
              yield packet
          found.file_end_sec = max(found.file_end_sec, self._end_of(packet))
        return
      except av.error.FFmpegError as error:
        if is_broken or isinstance(error, av.error.EOFError):
          return
        is_broken = True
        found.lost += 1

  def list_packets(self) -> list[PacketPlace]:
    """Lists all frames in file order; decodes nothing."""
    self.found = Findings()
    return [
      PacketPlace(
        self._to_sec(packet.pts),
        -1 if packet.pos is None else packet.pos,
        packet.size,
        packet.is_keyframe,
      )
      for packet in self._packets()
      if packet.pts is not None
    ]

  def _end_of(self, packet: av.Packet) -> float:
    starts = [tick for tick in (packet.pts, packet.dts) if tick is not None]
    if not starts:
      return -math.inf
    end = (max(starts) + (packet.duration or 0)) * packet.time_base
    return float(end) + self._to_sec(0)

  def _check_damage(self, num_frames: int, *, more: int = 0) -> None:
    damaged = self.found.damaged
    if damaged > MAX_DAMAGED_SHARE * num_frames + more:
      raise VideoError(
        f"damaged: {damaged} of {num_frames} frames do not decode; at most "
        f"{MAX_DAMAGED_SHARE:.0%} are accepted"
      )

  def finish(self) -> float:
    """Returns the duration in seconds after all frames were decoded.

    The video ends with its last frame, or later if the stream states that the
    last frame is shown longer.

    Raises:
      VideoError: there is no frame, too many are damaged, or the file is
        truncated.
    """
    found = self.found
    if not found.decoded:
      raise VideoError("no frame of the video can be decoded")
    end_sec, claimed_sec = found.end_sec, self.claimed_end_sec or 0.0
    is_listed = self.claimed_end_sec is not None and (
      self.info.container != "mov"
    )
    if self._is_whole is False and not is_listed:
      raise VideoError("cut short: the last part of the file is missing")
    if end_sec < claimed_sec * (1 - _CUT_SHARE) - _CUT_SEC:
      if not self._reaches_end():
        raise VideoError(
          f"cut short: it ends after {end_sec:.2f} of {claimed_sec:.2f} s; "
          "it may be partly downloaded"
        )
      if claimed_sec - end_sec > self._limits.max_gap_sec:
        raise VideoError(
          f"the last frame is shown for {claimed_sec - end_sec:.0f} s; the "
          f"limit is {self._limits.max_gap_sec:.0f} s"
        )
    self._check_damage(found.decoded + found.lost)
    if end_sec > self._limits.max_duration_sec:
      raise VideoError(
        f"longer than the limit of {self._limits.max_duration_sec} s"
      )
    if not self.is_own_claim or end_sec > claimed_sec + _CUT_SEC:
      return end_sec
    return claimed_sec

  def _reaches_end(self) -> bool:
    """Returns True if the last frame is shown until the stated end."""
    is_mov = self.info.container == "mov"
    if self._is_whole and not is_mov:
      return True
    found, claimed_sec = self.found, self.claimed_end_sec or 0.0
    # A truncated file loses the ends of all its streams; the index of an mp4
    # file states the end of its video.
    end_sec = found.packets_end_sec if is_mov else found.file_end_sec
    return end_sec >= claimed_sec * (1 - _CUT_SHARE) - _CUT_SEC


@contextlib.contextmanager
def open_video(
  video: Video, *, limits: VideoLimits = DEFAULT_LIMITS
) -> Iterator[OpenVideo]:
  """Opens encoded bytes, a local path or an open file.

  Raises:
    VideoError: not a local regular file, not a known container, no video
      stream, or a limit is exceeded.
  """
  with contextlib.ExitStack() as stack:
    file = stack.enter_context(open_source(video, limits=limits))
    demuxer = _sniff(file)
    is_whole = structure.is_whole(file, demuxer)
    try:
      with errors.named("cannot open the video"):
        container = av.open(
          file,
          mode="r",
          format=demuxer,
          # No protocol has this name, so nothing nested can be opened.
          options={"protocol_whitelist": "none", "format_whitelist": demuxer},
        )
    except VideoError as error:
      if demuxer == "mov" and not structure.has_index(file):
        raise VideoError(
          "cut short: the file has no index (a moov box); it is unfinished or "
          "partly downloaded"
        ) from error
      raise
    stack.enter_context(container)
    with errors.named("cannot read the video's header"):
      opened = OpenVideo(
        container, demuxer=demuxer, limits=limits, is_whole=is_whole
      )
    yield opened


@contextlib.contextmanager
def open_source(video: Video, *, limits: VideoLimits) -> Iterator[BinaryIO]:
  """Opens the bytes of a video as a file, after checks of its type and size.

  Raises:
    VideoError: not a local regular file, or too large.
  """
  if isinstance(video, bytes | bytearray | memoryview):
    if len(video) > limits.max_bytes:
      raise VideoError(
        f"the file has {len(video)} bytes; the limit is {limits.max_bytes}"
      )
    yield io.BytesIO(video)
  elif isinstance(video, io.BufferedIOBase):
    video.seek(0)
    file: Any = video  # has all of BinaryIO but its name
    yield file
  else:
    if isinstance(video, str | os.PathLike) and os.path.isdir(video):
      raise VideoError(f"{os.fspath(video)} is a folder; expected a video")
    try:
      file = untrusted.open_file(video, max_bytes=limits.max_bytes)
    except untrusted.UntrustedFileError as error:
      raise VideoError(str(error)) from error
    except OSError as error:
      raise VideoError(
        f"cannot open {os.fspath(video)!r}: {error.strerror}"
      ) from error
    with file:
      yield file


def probe(video: Video, *, limits: VideoLimits = DEFAULT_LIMITS) -> VideoInfo:
  """Reads the container's metadata of its video; decodes nothing.

  Raises:
    VideoError: as `open_video`.
  """
  with open_video(video, limits=limits) as opened:
    return opened.info


def _sniff(file: BinaryIO) -> str:
  head = file.read(formats.SNIFF_BYTES)
  file.seek(0)
  name = formats.sniff(head)
  if name is None:
    if not head:
      raise VideoError("not a known video container: the file is empty")
    try:
      placeholders.check(file, name="not a known video container: the file")
    except untrusted.UntrustedFileError as error:
      raise VideoError(str(error)) from error
    raise VideoError(
      f"not a known video container: it starts with {head[:8]!r}; expected "
      f"{', '.join(suffix[1:] for suffix in formats.SUFFIXES)}"
    )
  return name
