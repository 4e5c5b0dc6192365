"""Transcodes local videos to the training store's format.

Decoders crash, hang or exhaust memory on hostile files, so the parent never
decodes: a child process with limits on memory, CPU time and wall time receives
each video as an open file. The child opens a stream of bytes in one of a few
containers recognised by their first bytes, never a name, so that no playlist or
address inside the file is followed.
"""

import dataclasses
import errno
import json
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from typing import IO, BinaryIO

import av
import numpy as np

from clap_jax.media import confinement, errors, rates, video_reader
from clap_jax.media.errors import VideoError
from clap_jax.media.limits import DEFAULT_LIMITS, VideoLimits
from clap_jax.storage import output
from tfds_builders import encoding
from tfds_builders.names import STORES

_MIN_SIDE_PX = 16
# Errors of the disk, not of a video.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


@dataclasses.dataclass(frozen=True)
class StoreLimits:
  """Form of the stored video, and limits on its source.

  `store` is h264 (closed groups of 16 frames, so that a clip decodes from the
  key frame before it), jpeg (each frame a JPEG picture, for comparison), or
  original (the source's bytes, decoded once to check them).
  """

  store: str = "h264"
  short_side_px: int = 224  # larger videos are scaled down to it
  max_fps: float = 15.0
  min_duration_sec: float = 1.0
  crf: int = 23  # of h264; about 0.8 dB above JPEG of quality 75
  source: VideoLimits = DEFAULT_LIMITS

  def __post_init__(self):
    if self.store not in STORES:
      raise ValueError(f"unknown store {self.store!r}; choose from {STORES}")
    if self.short_side_px < 16 or not self.max_fps > 0:
      raise ValueError(
        f"short_side_px {self.short_side_px} must be at least 16 and max_fps "
        f"{self.max_fps} above 0"
      )


def _target_size(frame, aspect, limits):
  """Returns the stored (width, height): square pixels, even, scaled down."""
  width, height = frame.width * aspect, float(frame.height)
  factor = min(1.0, limits.short_side_px / min(width, height))
  return tuple(max(16, 2 * round(x * factor / 2)) for x in (width, height))


@dataclasses.dataclass
class Written:
  """Frame count, size and duration of a stored video."""

  num_frames: int = 0
  height: int = 0
  width: int = 0
  duration_sec: float = 0.0

  def count(self, image: np.ndarray) -> np.ndarray:
    self.num_frames += 1
    self.height, self.width = image.shape[:2]
    return image


def _to_image(frame, size):
  image = frame.to_ndarray(
    format="rgb24", width=size[0], height=size[1], interpolation="AREA"
  )
  turns = round((getattr(frame, "rotation", 0) or 0) / 90) % 4
  return np.ascontiguousarray(np.rot90(image, turns))


def frames_on_grid(opened, *, fps, limits, written) -> Iterator[np.ndarray]:
  """Yields the images shown at k / fps; repeats stills.

  Before its first picture a video shows that picture.
  """
  shown, image, size = None, None, None
  for at_sec, frame in opened.frames():
    if shown is None:
      shown = frame
      size = _target_size(frame, opened.info.pixel_aspect, limits)
    while written.num_frames / fps < at_sec - 1e-4:
      image = _to_image(shown, size) if image is None else image
      yield written.count(image)
    shown, image = frame, None
  written.duration_sec = opened.finish()
  while (written.num_frames + 0.5) / fps < written.duration_sec:
    image = _to_image(shown, size) if image is None else image
    yield written.count(image)


def transcode(
  source: IO[bytes], target: pathlib.Path, *, limits: StoreLimits
) -> dict:
  """Decodes an untrusted open file and stores it at `target`.

  Time counts from a player's zero, see `clap_jax.media.video_reader`. The rate
  is that of the source's motion, at most `limits.max_fps`; a variable rate
  becomes a constant one.

  Returns:
    {"fps", "duration_sec", "num_frames", "height", "width"} of the stored
    file, measured, not claimed. Under "source" what was read: {"num_frames",
    "damaged_frames", "longest_gap_sec", "duration_sec", "fps", "container",
    "stream", "joined"}, and as "claimed" {"num_frames", "duration_sec"} of its
    header, None where it states nothing.

  Raises:
    VideoError: the video cannot be stored, with the reason.
    OSError: the disk is full or not writable.
  """
  run = _check_only if limits.store == "original" else _encode
  try:
    with video_reader.open_video(source, limits=limits.source) as opened:
      check_sides(opened)
    fps, written, opened = run(source, target, limits=limits)
  except (av.FFmpegError, MemoryError) as error:
    if getattr(error, "errno", None) in NO_ROOM:
      raise OSError(error.errno, os.strerror(error.errno), target) from error
    raise VideoError(f"cannot be stored: {errors.in_words(error)}") from error
  if written.duration_sec < limits.min_duration_sec:
    target.unlink(missing_ok=True)
    raise VideoError(
      f"too short: {written.duration_sec:.2f} s; expected at least "
      f"{limits.min_duration_sec} s"
    )
  if limits.store == "original":
    _copy(source, target)
  info, found = opened.info, opened.found
  return {
    "fps": fps,
    "duration_sec": written.duration_sec,
    "num_frames": written.num_frames,
    "height": written.height,
    "width": written.width,
    "source": {
      "num_frames": found.decoded,
      "damaged_frames": found.damaged,
      "longest_gap_sec": found.longest_gap_sec,
      "duration_sec": found.end_sec,
      "claimed": {
        "num_frames": found.packets - found.hidden,
        "duration_sec": opened.claimed_end_sec if opened.is_own_claim else None,
      },
      "fps": info.fps,
      "container": info.container,
      "stream": info.stream,
      "joined": found.joins,
    },
  }


def check_sides(opened: video_reader.OpenVideo) -> None:
  """Refuses pictures that are too small to scale.

  Raises:
    VideoError: a side is shorter than 16 px.
  """
  if min(opened.info.height, opened.info.width) < _MIN_SIDE_PX:
    raise VideoError(
      f"{opened.info.width} x {opened.info.height} pixels; expected "
      f"at least {_MIN_SIDE_PX} per side"
    )


def store_rate(source: IO[bytes], *, limits: StoreLimits) -> float:
  """Returns the stored video's frame rate: that of the motion, within limits.

  Raises:
    VideoError: the video cannot be opened.
  """
  rate = rates.motion_rate(source, limits=limits.source)
  return float(
    Fraction(max(min(rate, limits.max_fps), 1.0)).limit_denominator(1001)
  )


def _encode(source, target, *, limits):
  """Writes the stored file; returns (frame rate, Written, the open video)."""
  fps = store_rate(source, limits=limits)
  written = Written()
  with video_reader.open_video(source, limits=limits.source) as opened:
    frames = frames_on_grid(opened, fps=fps, limits=limits, written=written)
    encoding.write_mp4(
      frames,
      target,
      fps=fps,
      crf=limits.crf,
      codec="mjpeg" if limits.store == "jpeg" else "h264",
      even_quantizer=True,
    )
  written.duration_sec = written.num_frames / fps
  return fps, written, opened


def _check_only(source, target, *, limits):
  """Decodes everything and stores nothing; returns as `_encode`."""
  del target
  written = Written()
  with video_reader.open_video(source, limits=limits.source) as opened:
    if not opened.info.fps > 0:
      raise VideoError("no frame rate; build the h264 store")
    for _, frame in opened.frames():
      if frame.pts is None:
        raise VideoError("no time stamps; build the h264 store")
      written.num_frames += 1
      written.height, written.width = frame.height, frame.width
    written.duration_sec = opened.finish()
  return opened.info.fps, written, opened


def _copy(source, target):
  source.seek(0)
  with output.writing(target) as file:
    shutil.copyfileobj(source, file)


def transcode_apart(
  source: pathlib.Path | BinaryIO, target: pathlib.Path, *, limits: StoreLimits
) -> dict:
  """Runs `transcode` in a child process.

  Raises:
    VideoError: as `transcode`, or the child crashed or ran out of time.
    OSError: the disk is full or not writable.
  """
  command = confinement.command(
    "tfds_builders.transcoding",
    json.dumps(dataclasses.asdict(limits)),
    str(target.absolute()),
  )
  try:
    with video_reader.open_source(source, limits=limits.source) as file:
      done = subprocess.run(
        command,
        stdin=file,
        capture_output=True,
        check=False,
        timeout=limits.source.max_decode_sec,
        env=confinement.environment(),
      )
  except subprocess.TimeoutExpired as error:
    raise VideoError(
      f"decoding took longer than {limits.source.max_decode_sec:.0f} s"
    ) from error
  finally:
    for partial in target.parent.glob(f".{target.name}.*.tmp"):
      partial.unlink(missing_ok=True)  # left by a killed child
  try:
    answer = json.loads(done.stdout.decode().splitlines()[-1])
  except (ValueError, IndexError):
    raise VideoError(
      f"the decoder died (exit status {done.returncode})"
    ) from None
  if "disk" in answer:
    raise OSError(answer["disk"], os.strerror(answer["disk"]), target)
  if "reason" in answer:
    raise VideoError(answer["reason"])
  return answer


def main(argv: list[str]) -> int:
  """Runs the child on limits as JSON, a target and the video on stdin."""
  fields = json.loads(argv[0])
  limits = StoreLimits(**fields | {"source": VideoLimits(**fields["source"])})
  confinement.confine(limits.source)
  confinement.allow_seconds(limits.source)
  try:
    answer = transcode(sys.stdin.buffer, pathlib.Path(argv[1]), limits=limits)
  except VideoError as error:
    answer = {"reason": str(error)}
  except OSError as error:
    if error.errno not in NO_ROOM:
      raise
    answer = {"disk": error.errno}
  print(json.dumps(answer))
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
