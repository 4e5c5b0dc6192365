"""Runs the server's jobs in threads, limited in number and time.

One thread runs the model, so that requests queue instead of competing for the
device. If a client disconnects, its job is cancelled: the job calls `check`
between its steps, which then raises.
"""

import asyncio
import concurrent.futures
import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import fastapi

T = TypeVar("T")
Check = Callable[..., None]  # takes and ignores any arguments

RETRY_AFTER_SEC = 2
_POLL_SEC = 0.25


class JobCancelledError(Exception):
  """Raised in a job whose result is no longer needed."""


class ModelQueue:
  """Runs jobs one at a time in a dedicated thread."""

  def __init__(self, *, max_jobs: int, timeout_sec: float):
    """Creates the queue.

    Args:
      max_jobs: maximum number of waiting and running jobs.
      timeout_sec: time limit of a job, including its waiting time.
    """
    self._timeout_sec = timeout_sec
    self._places = threading.Semaphore(max_jobs)
    self._is_closed = threading.Event()
    self._pool = concurrent.futures.ThreadPoolExecutor(
      1, thread_name_prefix="model"
    )

  async def run(self, job: Callable[[Check], T], request=None) -> T:
    """Runs a job and returns job(check).

    Args:
      job: function that calls `check` between its steps and does not catch
        its exception.
      request: request of the waiting client; the job is cancelled if the
        client disconnects.

    Raises:
      fastapi.HTTPException: 503 if too many jobs wait, 504 at the time limit.
    """
    if self._is_closed.is_set() or not self._places.acquire(blocking=False):
      raise busy("Too many requests are waiting; try again.")
    is_cancelled = threading.Event()

    def check(*_: Any) -> None:
      if is_cancelled.is_set() or self._is_closed.is_set():
        raise JobCancelledError

    def work() -> T:
      check()
      return job(check)

    submitted = self._pool.submit(work)
    # A job occupies a place until its thread has finished it.
    submitted.add_done_callback(lambda _: self._places.release())
    future = asyncio.wrap_future(submitted)
    future.add_done_callback(_retrieve)
    try:
      return await self._result(future, request)
    finally:
      is_cancelled.set()
      submitted.cancel()

  async def _result(self, future: asyncio.Future, request) -> Any:
    deadline_sec = time.monotonic() + self._timeout_sec
    while not future.done():
      left_sec = deadline_sec - time.monotonic()
      if left_sec <= 0:
        raise fastapi.HTTPException(
          504, f"No result within {self._timeout_sec:g} s."
        )
      await asyncio.wait({future}, timeout=min(left_sec, _POLL_SEC))
      if request is not None and await request.is_disconnected():
        raise fastapi.HTTPException(499, "The client disconnected.")
    try:
      return future.result()
    except (JobCancelledError, asyncio.CancelledError):
      raise busy("The server is shutting down.") from None

  def close(self) -> None:
    """Cancels all jobs; the running job stops after its current step."""
    self._is_closed.set()
    self._pool.shutdown(wait=False, cancel_futures=True)


async def in_thread(function: Callable[..., T], *args: Any) -> T:
  """Returns function(*args), computed in a daemon thread.

  Use it for work that cannot be cancelled, for example waiting for a child
  process; the server does not wait for the thread when it exits.
  """
  loop = asyncio.get_running_loop()
  future: asyncio.Future = loop.create_future()
  future.add_done_callback(_retrieve)

  def finish(result: T | None, error: BaseException | None) -> None:
    if future.done():
      return
    if error is None:
      future.set_result(result)
    else:
      future.set_exception(error)

  def work() -> None:
    result, raised = None, None
    try:
      result = function(*args)
    except BaseException as error:  # raised by the await below
      raised = error
    with contextlib.suppress(RuntimeError):  # the server has ended
      loop.call_soon_threadsafe(finish, result, raised)

  threading.Thread(target=work, daemon=True).start()
  return await future


def busy(reason: str) -> fastapi.HTTPException:
  """Returns a 503 error that asks the client to try again later."""
  headers = {"Retry-After": str(RETRY_AFTER_SEC), "Connection": "close"}
  return fastapi.HTTPException(503, reason, headers)


def _retrieve(future: asyncio.Future) -> None:
  """Retrieves an abandoned job's exception, so that asyncio does not log it."""
  if not future.cancelled():
    future.exception()
