"""Decodes untrusted videos in a child process.

A decoder that crashes, hangs or exhausts memory affects only its video: the
child has limits on memory and time, and ends with this process. It receives
open files, never names. Clips return through a fixed number of slots in shared
memory. A child serves one video after the other; a dead one is replaced.
"""

import atexit
import concurrent.futures
import contextlib
import dataclasses
import fcntl
import io
import json
import math
import mmap
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Generator, Iterator
from typing import BinaryIO, TypeGuard

import numpy as np

from clap_jax.media import (
  confinement,
  decode,
  decoder,
  frames,
  headers,
  video_reader,
)
from clap_jax.media.errors import VideoError
from clap_jax.media.limits import DEFAULT_LIMITS, VideoLimits

_NUM_SLOTS = 4  # clips in shared memory
_MAX_IDLE = 4  # children kept for another video
# If the file can neither grow nor shrink, this process's accesses cannot fail.
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


def _is_message(message) -> TypeGuard[dict]:
  """Returns True if this is a valid answer of decoder.py."""
  if not isinstance(message, dict):
    return False
  kinds = {name: type(value) for name, value in message.items()}
  if kinds == {"info": dict}:
    names = {field.name for field in dataclasses.fields(headers.VideoInfo)}
    return set(message["info"]) == names
  if kinds == {"slot": int, "start_sec": float}:
    return 0 <= message["slot"] < _NUM_SLOTS
  if kinds == {"cut_sec": float}:
    return math.isfinite(message["cut_sec"])
  return kinds in ({"duration_sec": float}, {"reason": str, "is_last": bool})


class _Child:
  """A decoding process and the socket to it."""

  def __init__(self, limits: VideoLimits):
    self.limits = limits
    self._socket, theirs = socket.socketpair(
      socket.AF_UNIX, socket.SOCK_SEQPACKET
    )
    with theirs:
      # The child dies with the thread that starts it; this thread persists.
      self._process = _SPAWNER.submit(
        subprocess.Popen,
        confinement.command(
          "clap_jax.media.decoder",
          str(theirs.fileno()),
          json.dumps(dataclasses.asdict(limits)),
        ),
        env=confinement.environment(),
        pass_fds=(theirs.fileno(),),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
      ).result()

  @property
  def pid(self) -> int:
    return self._process.pid

  @property
  def is_alive(self) -> bool:
    return self._process.poll() is None

  def send(self, request: dict, files: list[int]) -> None:
    try:
      socket.send_fds(self._socket, [json.dumps(request).encode()], files)
    except OSError as error:
      raise self.died() from error

  def give_back_slot(self) -> None:
    try:
      self._socket.send(decoder.CREDIT)
    except OSError as error:
      raise self.died() from error

  def receive(self, left_sec: float) -> dict:
    """Returns the next message.

    Raises:
      VideoError: the child died, or took too long.
    """
    self._socket.settimeout(max(left_sec, 1e-3))
    try:
      data = self._socket.recv(decoder.MAX_MESSAGE_BYTES)
    except TimeoutError:
      raise self._slow() from None
    except OSError:
      data = b""
    if not data:
      raise self.died()
    try:
      message = json.loads(data)
    except ValueError:
      message = None
    if not _is_message(message):  # a hostile file may control the child
      self.end()
      raise VideoError("the decoder's answer is malformed")
    return message

  def _slow(self) -> VideoError:
    return VideoError(
      f"decoding took longer than {self.limits.max_decode_sec:g} s"
    )

  def died(self) -> VideoError:
    self.end(patience_sec=1.0)
    status = self._process.returncode
    if status == -signal.SIGXCPU:
      return self._slow()
    return VideoError(f"the decoder died ({confinement.ended_by(status)})")

  def end(self, *, patience_sec: float = 0.0) -> None:
    """Kills the child unless it ends by itself in time."""
    self._socket.close()
    try:
      self._process.wait(timeout=patience_sec)
    except subprocess.TimeoutExpired:
      self._process.kill()
      self._process.wait()


class _Pool:
  """Idle children to reuse; thread-safe."""

  def __init__(self):
    self._idle: list[_Child] = []
    self._lock = threading.Lock()

  def take(self, limits: VideoLimits) -> _Child:
    while True:
      with self._lock:
        same = [child for child in self._idle if child.limits == limits]
        if same:
          self._idle.remove(same[-1])
      if not same:
        return _Child(limits)
      if same[-1].is_alive:
        return same[-1]
      same[-1].end()

  def put(self, child: _Child) -> None:
    with self._lock:
      self._idle.append(child)
      surplus = self._idle[:-_MAX_IDLE]
      self._idle = self._idle[-_MAX_IDLE:]
    for old in surplus:
      old.end()

  def close(self) -> None:
    with self._lock:
      children, self._idle = self._idle, []
    for child in children:
      child.end()


_SPAWNER = concurrent.futures.ThreadPoolExecutor(
  1, thread_name_prefix="decoders"
)
_POOL = _Pool()
atexit.register(_POOL.close)


def close() -> None:
  """Ends the idle children."""
  _POOL.close()


class ClipStream:
  """Iterates once over the clips of a video, decoded by a child.

  `info` is the container's metadata; `duration_sec` and `cuts_sec`, the starts
  of all shots but the first, are complete after the last clip.
  """

  def __init__(
    self,
    video: video_reader.Video,
    shape: decode.ClipShape,
    *,
    limits: VideoLimits = DEFAULT_LIMITS,
    finds_cuts: bool = False,
  ):
    """Stores the arguments; the first clip opens the video."""
    self._video = video
    self._shape = shape
    self._limits = limits
    self._finds_cuts = finds_cuts
    self.cuts_sec: list[float] = []
    self.info: headers.VideoInfo | None = None
    self.duration_sec: float | None = None
    self.child_pid: int | None = None  # set once the child decodes
    self._clips = self._decoded()

  def __iter__(self) -> Iterator[decode.DecodedClip]:
    return self._clips

  def __next__(self) -> decode.DecodedClip:
    return next(self._clips)

  def close(self) -> None:
    """Stops decoding."""
    self._clips.close()

  def _decoded(self) -> Generator[decode.DecodedClip, None, None]:
    size = self._shape.num_frames, *_sides(self._shape), 3
    slots = (_NUM_SLOTS, *size)
    request = {
      "shape": dataclasses.asdict(self._shape),
      "slots": slots,
      "finds_cuts": self._finds_cuts,
    }
    with _memory_file(math.prod(slots)) as file:
      memory = mmap.mmap(file, math.prod(slots))
      view = np.frombuffer(memory, np.uint8).reshape(slots)
      for child, message in _answers(
        self._video, request, [file], limits=self._limits
      ):
        if "info" in message:
          self.child_pid = child.pid
          self.info = headers.VideoInfo(**message["info"])
        elif "cut_sec" in message:
          self.cuts_sec.append(message["cut_sec"])
        elif "slot" in message:
          clip = view[message["slot"]].copy()
          child.give_back_slot()
          yield decode.DecodedClip(message["start_sec"], clip)
        else:
          self.duration_sec = message["duration_sec"]


def probe(
  video: video_reader.Video, *, limits: VideoLimits = DEFAULT_LIMITS
) -> headers.VideoInfo:
  """Reads the container's metadata in a child process; decodes nothing.

  Raises:
    VideoError: the video cannot be opened, or exceeds a limit.
  """
  for _, message in _answers(video, {"shape": None}, [], limits=limits):
    return headers.VideoInfo(**message["info"])
  raise VideoError("the decoder did not answer")


def _sides(shape: decode.ClipShape) -> tuple[int, int]:
  return frames.frame_sides(shape.size, shape.mode)


@contextlib.contextmanager
def _memory_file(num_bytes: int) -> Iterator[int]:
  """Yields the file descriptor of anonymous memory of a fixed size."""
  file = os.memfd_create("clips", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
  try:
    os.ftruncate(file, num_bytes)
    fcntl.fcntl(file, fcntl.F_ADD_SEALS, _SEALS)
    yield file
  finally:
    os.close(file)


@contextlib.contextmanager
def _descriptor(source: BinaryIO) -> Iterator[int]:
  """Yields the descriptor of a file, or of memory with its bytes."""
  if not isinstance(source, io.BytesIO):
    yield source.fileno()
    return
  content = source.getbuffer()
  with _memory_file(len(content)) as file:
    confinement.write_at(file, content, 0)
    yield file


def _answers(
  video: video_reader.Video,
  request: dict,
  files: list[int],
  *,
  limits: VideoLimits,
) -> Iterator[tuple[_Child, dict]]:
  """Yields a child and its messages on one video.

  Raises:
    VideoError: the child refused the video, died, or took too long.
  """
  with (
    video_reader.open_source(video, limits=limits) as source,
    _descriptor(source) as file,
  ):
    child, is_done = _POOL.take(limits), False
    try:
      child.send(request, [file, *files])
      left_sec = limits.max_decode_sec
      while not is_done:
        start = time.monotonic()
        message = child.receive(left_sec)
        # The time that the caller spends does not count.
        left_sec -= time.monotonic() - start
        is_done = "duration_sec" in message or request["shape"] is None
        if "reason" in message:
          is_done = not message["is_last"]
          raise VideoError(message["reason"])
        yield child, message
    finally:
      if is_done:
        _POOL.put(child)
      else:
        child.end()
