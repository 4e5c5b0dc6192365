"""Child process that decodes untrusted videos; see guard.py.

It receives open files and shared memory over a socket, one video after the
other, and answers with JSON.
"""

import dataclasses
import functools
import json
import mmap
import os
import socket
import sys

import numpy as np

from clap_jax.media import confinement, decode, errors, video_reader
from clap_jax.media.errors import VideoError
from clap_jax.media.limits import VideoLimits

MAX_MESSAGE_BYTES = 1 << 16
CREDIT = b"+"  # a slot is free again
_MAX_REASON = 2000  # characters


def _send(connection: socket.socket, message: dict) -> None:
  connection.send(json.dumps(message).encode())


def _serve(connection, request: dict, files: list[int], limits) -> None:
  """Answers a request: metadata, then clips and cuts, then the duration."""
  with (
    os.fdopen(files[0], "rb") as file,
    video_reader.open_video(file, limits=limits) as opened,
  ):
    _send(connection, {"info": dataclasses.asdict(opened.info)})
    if request["shape"] is None:
      return
    shape = decode.ClipShape(**request["shape"])
    memory = mmap.mmap(files[1], 0)
    os.close(files[1])
    slots = np.frombuffer(memory, np.uint8).reshape(request["slots"])
    on_cut = functools.partial(_send_cut, connection)
    clips = decode.stream_clips(
      opened, shape, on_cut if request["finds_cuts"] else None
    )
    _send_clips(connection, clips, slots)


def _send_cut(connection: socket.socket, cut_sec: float) -> None:
  _send(connection, {"cut_sec": float(cut_sec)})


def _send_clips(connection, clips, slots) -> None:
  """Writes every clip into the next slot, once it is free."""
  free, number = len(slots), 0
  while True:
    try:
      clip = next(clips)
    except StopIteration as stop:
      _send(connection, {"duration_sec": float(stop.value)})
      return
    while not free:
      if not connection.recv(1):
        raise SystemExit(0)  # the other end is closed
      free += 1
    slots[number] = clip.frames
    _send(connection, {"slot": number, "start_sec": float(clip.start_sec)})
    number, free = (number + 1) % len(slots), free - 1


def main(argv: list[str]) -> int:
  """Serves requests until the socket is closed.

  Args:
    argv: the socket's file descriptor, and the limits as JSON.
  """
  connection = socket.socket(fileno=int(argv[0]))
  limits = VideoLimits(**json.loads(argv[1]))
  confinement.confine(limits)
  while True:
    data, files, _, _ = socket.recv_fds(connection, MAX_MESSAGE_BYTES, 2)
    if not data:
      return 0
    if data == CREDIT:  # for one of the last clips of the previous video
      continue
    confinement.allow_seconds(limits)
    try:
      _serve(connection, json.loads(data), files, limits)
    except (VideoError, MemoryError) as error:
      is_last = not isinstance(error, VideoError)
      reason = errors.in_words(error)[:_MAX_REASON]
      _send(connection, {"reason": reason, "is_last": is_last})
      if is_last:
        return 1


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
