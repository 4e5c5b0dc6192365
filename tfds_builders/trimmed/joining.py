"""Joins trimmed clips into one recording in a child process.

The parent never decodes. The child receives open files and prints the number of
its current clip, so that a clip that kills it is named and left out, and the
others are joined. Every clip is decoded once to check and measure it, and again
while the recording is encoded.
"""

import collections
import contextlib
import dataclasses
import errno
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import av
import numpy as np

from clap_jax.media import confinement, errors, video_reader
from clap_jax.media.errors import VideoError
from clap_jax.media.limits import VideoLimits
from tfds_builders import encoding, transcoding
from tfds_builders.trimmed.settings import MIN_CLIP_SEC


@dataclasses.dataclass
class Joined:
  """Results of joining clips, by their index.

  Attributes:
    facts: fps, num_frames, height, width, duration_sec; None without frames.
    frames: number of frames of each clip in the recording.
    broken: reason for each clip that is left out.
  """

  facts: dict | None = None
  frames: dict[int, int] = dataclasses.field(default_factory=dict)
  broken: dict[int, str] = dataclasses.field(default_factory=dict)


def join_apart(
  paths: Sequence[pathlib.Path],
  target: pathlib.Path,
  *,
  limits: transcoding.StoreLimits,
) -> Joined:
  """Writes the clips to `target`, one after the other.

  The frame rate is the highest of the clips, within `limits`; clips of another
  aspect ratio than most get black bars. Nothing is written if all are broken.

  Raises:
    OSError: the disk is full or not writable.
  """
  joined = Joined()
  while joined.facts is None and len(joined.broken) < len(paths):
    num_broken = len(joined.broken)
    with contextlib.ExitStack() as stack:
      files = {}
      for place, path in enumerate(paths):
        if place not in joined.broken:
          try:
            files[place] = stack.enter_context(
              video_reader.open_source(path, limits=limits.source)
            )
          except VideoError as error:
            joined.broken[place] = str(error)
      if files:
        _run_child(files, target, limits, joined)
    if joined.facts is None and len(joined.broken) == num_broken:
      raise RuntimeError(f"{target.name}: the joining process cannot start")
  return joined


def _run_child(files, target, limits, joined) -> None:
  """Starts the child once; fills `joined` from its output."""
  command = confinement.command(
    "tfds_builders.trimmed.joining",
    json.dumps(
      {
        "files": {place: file.fileno() for place, file in files.items()},
        "target": str(target.absolute()),
        "limits": dataclasses.asdict(limits),
      }
    ),
  )
  reason = "the decoder died"
  try:
    done = subprocess.run(
      command,
      stdin=subprocess.DEVNULL,
      capture_output=True,
      check=False,
      timeout=limits.source.max_decode_sec * len(files),
      env=confinement.environment(),
      pass_fds=[file.fileno() for file in files.values()],
    )
    output, reason = done.stdout, f"{reason} (exit status {done.returncode})"
  except subprocess.TimeoutExpired as error:
    output, reason = error.stdout or b"", "decoding took too long"
  finally:
    for partial in target.parent.glob(f".{target.name}.*.tmp"):
      partial.unlink(missing_ok=True)  # left by a killed child
  place, is_over = None, False
  for line in output.decode().splitlines():
    try:
      message = json.loads(line)
    except ValueError:  # last line of a killed child
      break
    if "disk" in message:
      raise OSError(message["disk"], os.strerror(message["disk"]), target)
    if "at" in message:
      place = message["at"]
    elif "broken" in message:
      joined.broken[message["broken"]] = message["reason"]
    else:
      is_over = True
      joined.facts = message["facts"]
      joined.frames = {int(k): n for k, n in message["frames"].items()}
  if not is_over and place is not None and place not in joined.broken:
    joined.broken[place] = reason


def _say(**message) -> None:
  print(json.dumps(message), flush=True)


@contextlib.contextmanager
def _at(place: int, limits: VideoLimits) -> Iterator[None]:
  """Reports the current clip and starts its time limit.

  Raises:
    VideoError: the clip cannot be joined.
    OSError: the disk is full or not writable.
  """
  _say(at=place)
  confinement.allow_seconds(limits)
  try:
    yield
  except (av.FFmpegError, MemoryError) as error:
    if getattr(error, "errno", None) in transcoding.NO_ROOM:
      raise
    raise VideoError(f"cannot be joined: {errors.in_words(error)}") from error


def _measure(
  file: BinaryIO, limits: transcoding.StoreLimits
) -> tuple[float, tuple[int, int]]:
  """Returns (frame rate, (height, width)) of a clip; decodes all of it."""
  fps = transcoding.store_rate(file, limits=limits)
  written = transcoding.Written()
  with video_reader.open_video(file, limits=limits.source) as opened:
    transcoding.check_sides(opened)
    for _ in transcoding.frames_on_grid(
      opened, fps=fps, limits=limits, written=written
    ):
      pass
  if written.duration_sec < MIN_CLIP_SEC or not written.num_frames:
    raise VideoError(
      f"too short: {written.duration_sec:.2f} s; expected at least "
      f"{MIN_CLIP_SEC} s"
    )
  return fps, (written.height, written.width)


def _with_bars(image: np.ndarray, sides: tuple[int, int]) -> np.ndarray:
  """Scales an image into (height, width), centred on black."""
  if image.shape[:2] == sides:
    return image
  factor = min(s / own for s, own in zip(sides, image.shape[:2], strict=True))
  height, width = (
    min(side, max(2, round(own * factor)))
    for side, own in zip(sides, image.shape[:2], strict=True)
  )
  small = av.VideoFrame.from_ndarray(image, format="rgb24").to_ndarray(
    format="rgb24", width=width, height=height, interpolation="AREA"
  )
  bars = np.zeros((*sides, 3), np.uint8)
  top, left = (sides[0] - height) // 2, (sides[1] - width) // 2
  bars[top : top + height, left : left + width] = small
  return bars


def join(
  files: dict[int, BinaryIO],
  target: pathlib.Path,
  *,
  limits: transcoding.StoreLimits,
) -> None:
  """Joins open files in order and prints the result of each."""
  measured = {}
  for place, file in files.items():
    try:
      with _at(place, limits.source):
        measured[place] = _measure(file, limits)
    except VideoError as error:
      _say(broken=place, reason=str(error))
  if not measured:
    return
  fps = max(rate for rate, _ in measured.values())
  sides = collections.Counter(s for _, s in measured.values()).most_common(1)
  height, width = sides[0][0]
  frames: dict[int, int] = {}

  def images():
    for place in measured:
      written = transcoding.Written()
      with (
        _at(place, limits.source),
        video_reader.open_video(files[place], limits=limits.source) as opened,
      ):
        for image in transcoding.frames_on_grid(
          opened, fps=fps, limits=limits, written=written
        ):
          yield _with_bars(image, (height, width))
      frames[place] = written.num_frames

  count = encoding.write_mp4(
    images(),
    target,
    fps=fps,
    crf=limits.crf,
    codec="mjpeg" if limits.store == "jpeg" else "h264",
    even_quantizer=True,
  )
  facts = {"fps": fps, "num_frames": count, "height": height, "width": width}
  _say(facts=facts | {"duration_sec": count / fps}, frames=frames)


def main(argv: list[str]) -> int:
  """Runs the child process on open files, target and limits as JSON."""
  request = json.loads(argv[0])
  fields = request["limits"]
  limits = transcoding.StoreLimits(
    **fields | {"source": VideoLimits(**fields["source"])}
  )
  confinement.confine(limits.source)
  files = {
    int(place): os.fdopen(number, "rb")
    for place, number in request["files"].items()
  }
  try:
    join(files, pathlib.Path(request["target"]), limits=limits)
  except OSError as error:
    if error.errno not in (*transcoding.NO_ROOM, errno.EACCES):
      raise
    _say(disk=error.errno)
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
