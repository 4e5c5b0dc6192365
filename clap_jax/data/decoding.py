"""Decodes the clips of a training run in worker processes.

Threads of one process contend for the interpreter's lock. A worker receives the
position of a clip and writes its pixels into the shared memory of the batch. A
worker that dies is replaced and its clip is decoded again. Workers end with the
process that started them, however it ends, and their memory is anonymous, so
that nothing outlives it.
"""

import atexit
import collections
import concurrent.futures
import contextlib
import dataclasses
import json
import math
import mmap
import os
import queue
import socket
import subprocess
import sys
import threading
import weakref
from typing import Any

import numpy as np

from clap_jax.media import confinement
from clap_jax.media.errors import VideoError
from clap_jax.storage.tfrecord import CorruptRecordError

MAX_MESSAGE_BYTES = 1 << 16
# Errors of a worker that are raised again with their own type.
ERRORS = (
  CorruptRecordError,
  VideoError,
  FileNotFoundError,
  OSError,
  ValueError,
)
_AT_ONCE = 2  # clips queued per worker, so that it does not wait
_MAX_DEATHS = 3  # deaths of workers at one clip
_MIN_CORES, _CORES_LEFT, _MAX_DEFAULT = 4, 2, 32


class DecodingError(RuntimeError):
  """Raised if workers keep dying, or for an error not caused by a clip."""


def default_number() -> int:
  """Returns the default number of workers; 0 (threads) for few cores."""
  cores = len(os.sched_getaffinity(0))
  return min(cores - _CORES_LEFT, _MAX_DEFAULT) if cores >= _MIN_CORES else 0


class SharedArray:
  """A zeroed uint8 array in memory that workers can write to.

  The array is valid while it is referenced, the file while this object lives.
  """

  def __init__(self, shape: tuple[int, ...]):
    num_bytes = math.prod(shape)
    self.file = os.memfd_create("batch", os.MFD_CLOEXEC)
    weakref.finalize(self, os.close, self.file)
    os.ftruncate(self.file, num_bytes)
    memory = mmap.mmap(self.file, num_bytes)
    self.array = np.frombuffer(memory, np.uint8).reshape(shape)


@dataclasses.dataclass
class _Job:
  """A clip to decode into a row of a batch."""

  request: dict[str, Any]
  memory: SharedArray
  done: concurrent.futures.Future = dataclasses.field(
    default_factory=concurrent.futures.Future
  )
  num_deaths: int = 0


class _Worker:
  """A running decoding_worker and the socket to it."""

  def __init__(self, origin: dict[str, Any]):
    self._socket, theirs = socket.socketpair(
      socket.AF_UNIX, socket.SOCK_SEQPACKET
    )
    with theirs:
      self._process = subprocess.Popen(
        confinement.command(
          "clap_jax.data.decoding_worker",
          str(theirs.fileno()),
          json.dumps(origin),
        ),
        env=os.environ | confinement.environment(),
        pass_fds=(theirs.fileno(),),
        stdin=subprocess.DEVNULL,
      )

  @property
  def pid(self) -> int:
    return self._process.pid

  def send(self, job: _Job) -> None:
    with contextlib.suppress(OSError):  # it died, as `receive` will find
      message = json.dumps(job.request).encode()
      socket.send_fds(self._socket, [message], [job.memory.file])

  def receive(self) -> bytes:
    """Returns the next answer; an empty one once the worker is dead."""
    try:
      return self._socket.recv(MAX_MESSAGE_BYTES)
    except OSError:
      return b""

  def kill(self) -> None:
    self._process.kill()

  def end(self) -> str:
    """Kills the worker if it is alive; describes how it ended."""
    self._socket.close()
    self._process.kill()
    return confinement.ended_by(self._process.wait())


class DecodingProcesses:
  """A pool of workers that decode clips of one origin; thread-safe.

  Attributes:
    num_restarts: number of restarts of dead workers.
  """

  def __init__(self, number: int, origin: dict[str, Any]):
    """Starts `number` workers on an origin; see decoding_worker.py."""
    self.num_restarts = 0
    self._origin = origin
    self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
    self._lock = threading.Lock()
    self._is_closed = False
    self._workers = {slot: _Worker(origin) for slot in range(number)}
    self._threads = [
      threading.Thread(
        target=self._serve, args=(slot,), name=f"decoder-{slot}", daemon=True
      )
      for slot in range(number)
    ]
    for thread in self._threads:
      thread.start()
    atexit.register(self.close)

  @property
  def pids(self) -> list[int]:
    return [worker.pid for worker in self._workers.values()]

  def submit(
    self, request: dict[str, Any], memory: SharedArray
  ) -> concurrent.futures.Future:
    """Requests a clip; the future is done once it is written or has failed."""
    job = _Job(request, memory)
    with self._lock:
      if self._is_closed:
        job.done.cancel()
      else:
        self._jobs.put(job)
    return job.done

  def close(self) -> None:
    """Ends the workers; cancels unfinished requests."""
    with self._lock:
      if self._is_closed:
        return
      self._is_closed = True
      for worker in self._workers.values():
        worker.kill()
    atexit.unregister(self.close)
    self._jobs.put(None)
    for thread in self._threads:
      thread.join()
    with contextlib.suppress(queue.Empty):
      while True:
        if job := self._jobs.get_nowait():
          job.done.cancel()

  def _serve(self, slot: int) -> None:
    """Keeps one worker busy, and another in its place when it dies."""
    sent: collections.deque[_Job] = collections.deque()
    while True:
      with contextlib.suppress(queue.Empty):
        while len(sent) < _AT_ONCE:
          job = self._jobs.get(block=not sent)
          if job is None:
            break
          sent.append(job)
          self._workers[slot].send(job)
      answer = self._workers[slot].receive() if sent else b""
      if answer:
        _settle(sent.popleft().done, json.loads(answer))
      elif not self._replace(slot, sent):
        break
    self._jobs.put(None)  # for the other threads
    self._workers[slot].end()
    for job in sent:
      job.done.cancel()

  def _replace(self, slot: int, sent: collections.deque[_Job]) -> bool:
    """Starts another worker with the same clips unless the pool is closed."""
    with self._lock:
      if self._is_closed:
        return False
      old = self._workers[slot]
      how = old.end()
      self.num_restarts += 1
      self._workers[slot] = _Worker(self._origin)
    print(
      f"decoding process {old.pid} died ({how}) and is replaced; its clips "
      f"are decoded again ({self.num_restarts} so far)",
      file=sys.stderr,
    )
    sent[0].num_deaths += 1
    if sent[0].num_deaths == _MAX_DEATHS:
      job = sent.popleft()
      job.done.set_exception(
        DecodingError(
          f"{_MAX_DEATHS} decoding processes died, the last by {how}, at "
          f"{job.request}: look for a lack of memory, or set "
          "data.num_processes to 0 to decode in threads"
        )
      )
    for job in sent:
      self._workers[slot].send(job)
    return True


def _settle(done: concurrent.futures.Future, answer: dict[str, Any]) -> None:
  if not answer:
    done.set_result(None)
    return
  kinds = {kind.__name__: kind for kind in ERRORS}
  kind = kinds.get(answer["kind"], DecodingError)
  done.set_exception(kind(*answer["arguments"]))
