"""Starts a decoding process and limits its resources.

Decoders crash, hang or exhaust memory on hostile files, so the user's own
process never decodes a file of unknown origin.
"""

import ctypes
import math
import os
import pathlib
import resource
import signal
import sys

import av.logging

from clap_jax.media.limits import VideoLimits

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_PR_SET_PDEATHSIG = 1


def command(module: str, *arguments: str) -> list[str]:
  """Returns the command line that runs a module of this repository."""
  return [sys.executable, "-m", module, *arguments]


def environment() -> dict[str, str]:
  """Returns the environment variables that a decoder needs."""
  return {
    "PATH": os.environ.get("PATH", ""),
    "PYTHONPATH": str(_ROOT),
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
  }


def ended_by(status: int) -> str:
  """Returns what ended a process: the name of a signal, or its status."""
  if status < 0:
    return signal.Signals(-status).name
  return f"exit status {status}"


def write_at(file: int, content: memoryview, offset: int) -> None:
  """Writes all bytes of a flat array to a file at an offset."""
  while len(content):
    written = os.pwrite(file, content, offset)
    content, offset = content[written:], offset + written


def confine(limits: VideoLimits) -> None:
  """Caps this process's memory and ties its life to its parent's.

  Call it first in a decoding process. To Linux, the parent is the thread that
  started the process.
  """
  if sys.platform == "linux":
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
  memory = limits.max_memory_bytes
  resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
  resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
  av.logging.set_level(None)


def allow_seconds(limits: VideoLimits) -> None:
  """Extends this process's CPU time limit for one more video."""
  usage = resource.getrusage(resource.RUSAGE_SELF)
  used_sec = usage.ru_utime + usage.ru_stime
  _, hard = resource.getrlimit(resource.RLIMIT_CPU)
  seconds = math.ceil(used_sec + limits.max_decode_sec)
  resource.setrlimit(resource.RLIMIT_CPU, (seconds, hard))
