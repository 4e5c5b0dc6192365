"""Worker process that decodes clips for a training run; see decoding.py.

It starts with the origin of the clips, receives clips over a socket one by one,
each with the memory of its batch, and answers once the pixels are written. It
exits when the other end of the socket is closed.
"""

import json
import os
import signal
import socket
import sys
import traceback
from typing import Any

import numpy as np

from clap_jax.data import decoding, records
from clap_jax.data.augment import AugmentOptions
from clap_jax.data.clip_source import FrameLoader, FrameOptions
from clap_jax.data.clips import ClipItem
from clap_jax.media import confinement
from clap_jax.storage import locations
from clap_jax.storage.tfrecord import CorruptRecordError

_MAX_REASON = 8000  # characters


class _Clips:
  """Loads clips of an origin by request, as ClipSource sends them."""

  def __init__(self, origin: dict[str, Any]):
    dataset = records.Dataset(
      locations.at(origin["directory"]), name=origin["dataset"]
    )
    self._records = dataset.split(origin["split"])
    self._loader = FrameLoader(
      self._records,
      FrameOptions(**origin["options"]),
      augment=AugmentOptions(**origin["augment"]),
    )

  def write(self, request: dict[str, Any], file: int) -> None:
    """Writes the pixels of a clip at their offset in a file."""
    item = ClipItem(**request["item"])
    self._records.expect_id(item.record_index, request["id"])
    frames = np.ascontiguousarray(self._loader.frames(item))
    confinement.write_at(file, frames.reshape(-1).data, request["offset"])


def _described(error: Exception) -> dict[str, Any]:
  """Returns the answer for which decoding.py raises the error."""
  for kind in decoding.ERRORS:
    if isinstance(error, kind):
      if isinstance(error, CorruptRecordError):
        arguments: tuple = (error.shard, error.offset, error.reason)
      elif isinstance(error, OSError) and error.errno is not None:
        arguments = (error.errno, error.strerror, str(error.filename or ""))
      else:
        arguments = (str(error)[:_MAX_REASON],)
      return {"kind": kind.__name__, "arguments": arguments}
  return {"kind": "", "arguments": (traceback.format_exc()[-_MAX_REASON:],)}


def main(argv: list[str]) -> int:
  """Serves requests until the socket is closed.

  Args:
    argv: the socket's file descriptor, and the origin as JSON.
  """
  connection = socket.socket(fileno=int(argv[0]))
  clips = None
  while True:
    data, files, _, _ = socket.recv_fds(
      connection, decoding.MAX_MESSAGE_BYTES, 1
    )
    if not data:
      return 0
    answer = {}
    try:
      clips = clips or _Clips(json.loads(argv[1]))
      clips.write(json.loads(data), files[0])
    except Exception as error:
      answer = _described(error)
    finally:
      os.close(files[0])
    connection.send(json.dumps(answer).encode())


if __name__ == "__main__":
  # The trainer handles a stop, for which it needs the pending batches.
  for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
  try:
    sys.exit(main(sys.argv[1:]))
  except (BrokenPipeError, ConnectionResetError):
    sys.exit(0)  # the trainer is gone
