"""Turns any local video into a file of the training store.

Decoders crash, hang and swell on hostile files, so the parent never decodes:
each video is handed, as an open file, to a child process with limits on
memory, processor time and wall time. The child opens a stream of bytes in one
of a few containers recognised by their first bytes, never a name, so that no
playlist or address inside the file is followed.
"""

import ctypes
import dataclasses
import errno
import json
import math
import os
import pathlib
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from typing import IO

import av
import numpy as np

from tfds_builders import encoding
from tfds_builders.names import STORES

# More damaged frames than this, and a video is not worth having.
_MAX_DAMAGED_SHARE = 0.02
# A video that ends earlier than its header says by more than this is cut.
_CUT_SHARE, _CUT_SEC = 0.05, 0.25
_CLOCK = re.compile(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)")
# What the training side opens; the original store keeps nothing else.
_READABLE_CONTAINERS = ("mov", "matroska", "avi", "mpegts")
_PR_SET_PDEATHSIG = 1
# What the disk says of itself, and not of a video.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


@dataclasses.dataclass(frozen=True)
class StoreLimits:
  """The form of the stored video, and what is not even tried.

  `store` is h264 (closed groups of 16 frames, so that a clip decodes from the
  key frame before it), jpeg (each frame a JPEG picture, for comparison), or
  original (the source's bytes, decoded once to check them).
  """

  store: str = "h264"
  short_side_px: int = 224  # larger videos are scaled down to it
  max_fps: float = 15.0
  min_duration_sec: float = 1.0
  max_duration_sec: float = 4 * 3600.0
  max_source_bytes: int = 8 << 30
  max_source_pixels: int = 4096 * 4096
  max_source_frames: int = 2_000_000
  wall_timeout_sec: float = 900.0
  memory_bytes: int = 3 << 29  # of address space; the resident size is below
  crf: int = 23  # of h264; about 0.8 dB above JPEG of quality 75

  def __post_init__(self):
    if self.store not in STORES:
      raise ValueError(f"unknown store {self.store!r}; choose from {STORES}")
    if self.short_side_px < 16 or not self.max_fps > 0:
      raise ValueError(
        f"short_side_px {self.short_side_px} must be at least 16 and max_fps "
        f"{self.max_fps} above 0"
      )


class UnusableVideoError(ValueError):
  """A video that cannot be stored; the message is the reason."""


def sniff_container(head: bytes) -> str:
  """FFmpeg's name of the container that starts with these bytes.

  Raises:
    UnusableVideoError: for anything but the video containers known here.
  """
  if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
    return "mov"
  if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
    return "avi"
  if len(head) > 188 and head[0] == 0x47 and head[188] == 0x47:
    return "mpegts"
  for magic, name in (
    (b"\x1aE\xdf\xa3", "matroska"),
    (b"FLV\x01", "flv"),
    (b"OggS", "ogg"),
    (b"\x00\x00\x01\xba", "mpeg"),
    (b"\x30\x26\xb2\x75", "asf"),
  ):
    if head.startswith(magic):
      return name
  raise UnusableVideoError(
    f"not a known video container (starts with {head[:8]!r}); known: mp4/mov, "
    "matroska/webm, avi, flv, ogg, mpeg, mpegts, asf"
  )


def open_video(file: IO[bytes]) -> av.container.InputContainer:
  """Opens a seekable file of a known container.

  Raises:
    UnusableVideoError: if it is not one.
    av.FFmpegError: if it is broken.
  """
  name = sniff_container(file.read(512))
  file.seek(0)
  return av.open(
    file,
    "r",
    format=name,
    # No protocol of this name exists, so nothing nested can be opened.
    options={"protocol_whitelist": "none", "format_whitelist": name},
  )


def _first_video_stream(container, limits):
  if not container.streams.video:
    raise UnusableVideoError("no video stream in the file")
  stream = container.streams.video[0]
  width, height = stream.width or 0, stream.height or 0
  if min(width, height) < 16 or width * height > limits.max_source_pixels:
    raise UnusableVideoError(
      f"{width} x {height} pixels; expected at least 16 a side and at most "
      f"{limits.max_source_pixels} in all"
    )
  duration_sec = float((stream.duration or 0) * (stream.time_base or 0))
  duration_sec = max(duration_sec, (container.duration or 0) / av.time_base)
  if stream.frames > limits.max_source_frames:
    raise UnusableVideoError(
      f"claims {stream.frames} frames; at most {limits.max_source_frames} are "
      "taken"
    )
  if duration_sec > limits.max_duration_sec:
    raise UnusableVideoError(
      f"claims {duration_sec:.0f} s; at most "
      f"{limits.max_duration_sec:.0f} s are taken"
    )
  stream.thread_count = 1
  return stream


def _target_size(frame, stream, limits):
  """(width, height) of the store: square pixels, even sides, scaled down."""
  aspect = float(stream.sample_aspect_ratio or 1) or 1.0
  width, height = frame.width * aspect, float(frame.height)
  factor = min(1.0, limits.short_side_px / min(width, height))
  return tuple(max(16, 2 * round(x * factor / 2)) for x in (width, height))


@dataclasses.dataclass
class _Progress:
  """What the decoding generator found out, for after the encoding."""

  decoded: int = 0
  damaged: int = 0  # of those decoded
  written: int = 0
  longest_gap_sec: float = 0.0  # between the starts of two frames
  end_sec: float = 0.0
  height: int = 0
  width: int = 0

  def count(self, image: np.ndarray) -> np.ndarray:
    self.written += 1
    self.height, self.width = image.shape[:2]
    return image


def _to_image(frame, size):
  image = frame.to_ndarray(
    format="rgb24", width=size[0], height=size[1], interpolation="AREA"
  )
  turns = round((getattr(frame, "rotation", 0) or 0) / 90) % 4
  return np.ascontiguousarray(np.rot90(image, turns))


def _timed_frames(container, stream, *, fps, limits, found):
  """Yields (seconds since the first frame, frame), checking the limits."""
  start_sec, gap_sec = None, 1.0 / float(stream.average_rate or fps)
  before_sec = 0.0
  for frame in container.decode(stream):
    found.decoded += 1
    found.damaged += bool(frame.is_corrupt)
    if found.decoded > limits.max_source_frames:
      raise UnusableVideoError(f"more than {limits.max_source_frames} frames")
    if frame.width * frame.height > limits.max_source_pixels:
      raise UnusableVideoError("the picture grows past the pixel limit")
    time_sec = frame.time
    if time_sec is None:  # no time stamp: right after the one before
      time_sec = found.end_sec + (start_sec or 0.0)
    start_sec = time_sec if start_sec is None else start_sec
    at_sec = time_sec - start_sec
    if at_sec + gap_sec > limits.max_duration_sec:
      raise UnusableVideoError(f"longer than {limits.max_duration_sec:.0f} s")
    yield at_sec, frame
    found.longest_gap_sec = max(found.longest_gap_sec, at_sec - before_sec)
    before_sec = at_sec
    found.end_sec = max(found.end_sec, at_sec + gap_sec)


def _frames_on_grid(
  container, stream, *, fps, limits, found
) -> Iterator[np.ndarray]:
  """Image k is what is on the screen at k / fps; stills are repeated."""
  shown, image, size = None, None, None
  for at_sec, frame in _timed_frames(
    container, stream, fps=fps, limits=limits, found=found
  ):
    while shown is not None and found.written / fps < at_sec - 1e-4:
      image = _to_image(shown, size) if image is None else image
      yield found.count(image)
    size = size or _target_size(frame, stream, limits)
    shown, image = frame, None
  while shown is not None and (found.written + 0.5) / fps < found.end_sec:
    image = _to_image(shown, size) if image is None else image
    yield found.count(image)


def transcode(
  source: IO[bytes], target: pathlib.Path, *, limits: StoreLimits
) -> dict:
  """Decodes an open file and stores it at `target`; trusts nothing.

  Time zero is the first frame. The rate is the source's, at most
  `limits.max_fps`; a variable rate becomes a constant one.

  Returns:
    {"fps", "duration_sec", "num_frames", "height", "width"} of the stored
    file, measured, not claimed. Under "source" what was read: {"num_frames",
    "damaged_frames", "longest_gap_sec", "duration_sec", "fps", "container"},
    and as "claimed" {"num_frames", "duration_sec"} of its header, None where
    that says nothing.

  Raises:
    UnusableVideoError: with the reason.
    OSError: where the disk takes no more.
  """
  found = _Progress()
  try:
    with open_video(source) as container:
      stream = _first_video_stream(container, limits)
      claimed, rate = _claims(container, stream), stream.average_rate
      name = container.format.name.split(",", 1)[0]
      run = _check_only if limits.store == "original" else _encode
      fps = run(container, stream, target, limits=limits, found=found)
  except (av.FFmpegError, ValueError, MemoryError) as error:
    if isinstance(error, UnusableVideoError):
      raise
    if getattr(error, "errno", None) in _NO_ROOM:
      raise OSError(error.errno, os.strerror(error.errno), target) from error
    raise UnusableVideoError(
      f"cannot be decoded ({type(error).__name__}: {error}) after "
      f"{found.decoded} frames"
    ) from error
  duration_sec = found.written / fps
  if limits.store == "original":
    duration_sec = found.end_sec
    _copy(source, target)
  try:
    _check_found(found, claimed, duration_sec, limits)
  except UnusableVideoError:
    target.unlink(missing_ok=True)
    raise
  return {
    "fps": fps,
    "duration_sec": duration_sec,
    "num_frames": found.written,
    "height": found.height,
    "width": found.width,
    "source": {
      "num_frames": found.decoded,
      "damaged_frames": found.damaged,
      "longest_gap_sec": found.longest_gap_sec,
      "duration_sec": found.end_sec,
      "claimed": claimed,
      "fps": float(rate or 0),
      "container": name,
    },
  }


def _encode(container, stream, target, *, limits, found) -> float:
  """Writes the store's file; the frame rate."""
  rate = min(float(stream.average_rate or limits.max_fps), limits.max_fps)
  fps = Fraction(max(rate, 1.0)).limit_denominator(1001)
  frames = _frames_on_grid(
    container, stream, fps=float(fps), limits=limits, found=found
  )
  encoding.write_mp4(
    frames,
    target,
    fps=float(fps),
    crf=limits.crf,
    codec="mjpeg" if limits.store == "jpeg" else "h264",
    even_quantizer=True,
  )
  return float(fps)


def _check_only(container, stream, target, *, limits, found) -> float:
  """Decodes everything and keeps nothing; the frame rate."""
  del target
  name = container.format.name
  if not any(n in name.split(",") for n in _READABLE_CONTAINERS):
    raise UnusableVideoError(
      f"a {name} file cannot be stored as it is; build the h264 store"
    )
  fps = float(stream.average_rate or 0)
  if not fps > 0:
    raise UnusableVideoError("no frame rate; build the h264 store")
  for _, frame in _timed_frames(
    container, stream, fps=fps, limits=limits, found=found
  ):
    if frame.time is None:
      raise UnusableVideoError("no time stamps; build the h264 store")
    found.written += 1
    found.height, found.width = frame.height, frame.width
  return fps


def _copy(source, target):
  source.seek(0)
  partial = target.with_name(f".{target.name}.{os.getpid()}.tmp")
  with partial.open("wb") as file:
    shutil.copyfileobj(source, file)
  os.replace(partial, target)


def _claims(container, stream) -> dict:
  """What the file says of the length of its video stream."""
  duration_sec = None
  match = _CLOCK.match(stream.metadata.get("DURATION", ""))
  if stream.duration:
    duration_sec = float(stream.duration * stream.time_base)
  elif match:
    hours, minutes, seconds = (float(part) for part in match.groups())
    duration_sec = hours * 3600 + minutes * 60 + seconds
  elif container.duration and len(container.streams) == 1:
    duration_sec = container.duration / av.time_base
  if duration_sec and "DURATION" in stream.metadata:
    duration_sec -= float((stream.start_time or 0) * stream.time_base)
  return {"num_frames": stream.frames or None, "duration_sec": duration_sec}


def _check_found(found, claimed, duration_sec, limits):
  frames, claimed_sec = claimed["num_frames"], claimed["duration_sec"]
  if found.written == 0:
    raise UnusableVideoError("no frame of it can be decoded")
  if found.damaged > _MAX_DAMAGED_SHARE * found.decoded:
    raise UnusableVideoError(
      f"damaged: {found.damaged} of {found.decoded} frames"
    )
  if frames and found.decoded < 0.98 * frames - 2:
    raise UnusableVideoError(
      f"cut short: {found.decoded} of {frames} frames decode"
    )
  if claimed_sec and (
    found.end_sec < claimed_sec * (1 - _CUT_SHARE) - _CUT_SEC
  ):
    raise UnusableVideoError(
      f"cut short: it ends after {found.end_sec:.2f} of {claimed_sec:.2f} s"
    )
  if duration_sec < limits.min_duration_sec:
    raise UnusableVideoError(
      f"too short: {duration_sec:.2f} s, at least "
      f"{limits.min_duration_sec} s are needed"
    )


def transcode_apart(
  source: pathlib.Path, target: pathlib.Path, *, limits: StoreLimits
) -> dict:
  """`transcode` in a child process that cannot take this one down.

  Raises:
    UnusableVideoError: also when the child crashes or runs out of time.
    OSError: where the disk takes no more: that is not the video's fault.
  """
  root = pathlib.Path(__file__).resolve().parents[1]
  command = [
    sys.executable,
    "-m",
    "tfds_builders.transcoding",
    json.dumps(dataclasses.asdict(limits)),
    str(target.absolute()),
  ]
  environment = {
    "PATH": os.environ.get("PATH", ""),
    "PYTHONPATH": str(root),
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
  }
  try:
    with source.open("rb") as file:
      if os.fstat(file.fileno()).st_size > limits.max_source_bytes:
        raise UnusableVideoError(f"larger than {limits.max_source_bytes} bytes")
      done = subprocess.run(
        command,
        stdin=file,
        capture_output=True,
        check=False,
        timeout=limits.wall_timeout_sec,
        env=environment,
      )
  except OSError as error:
    raise UnusableVideoError(f"cannot be read: {error.strerror}") from error
  except subprocess.TimeoutExpired as error:
    raise UnusableVideoError(
      f"decoding took longer than {limits.wall_timeout_sec:.0f} s"
    ) from error
  finally:
    for partial in target.parent.glob(f".{target.name}.*.tmp"):
      partial.unlink(missing_ok=True)  # what a killed child leaves
  try:
    answer = json.loads(done.stdout.decode().splitlines()[-1])
  except (ValueError, IndexError):
    raise UnusableVideoError(
      f"the decoder died (exit status {done.returncode})"
    ) from None
  if "disk" in answer:
    raise OSError(answer["disk"], os.strerror(answer["disk"]), target)
  if "reason" in answer:
    raise UnusableVideoError(answer["reason"])
  return answer


def _die_with_parent():
  """No orphan goes on decoding after the build was killed (Linux only)."""
  if sys.platform == "linux":
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _set_limits(limits):
  seconds = math.ceil(limits.wall_timeout_sec)
  for kind, value in (
    (resource.RLIMIT_AS, limits.memory_bytes),
    (resource.RLIMIT_CPU, seconds),
    (resource.RLIMIT_CORE, 0),
  ):
    resource.setrlimit(kind, (value, value))


def main(argv: list[str]) -> int:
  """The child: limits as JSON and the target; the video on standard input."""
  limits = StoreLimits(**json.loads(argv[0]))
  _die_with_parent()
  _set_limits(limits)
  av.logging.set_level(None)
  try:
    answer = transcode(sys.stdin.buffer, pathlib.Path(argv[1]), limits=limits)
  except UnusableVideoError as error:
    answer = {"reason": str(error)}
  except OSError as error:
    if error.errno not in _NO_ROOM:
      raise
    answer = {"disk": error.errno}
  print(json.dumps(answer))
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
