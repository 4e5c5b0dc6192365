"""Runs the server's work in threads, limited in number and time.

One thread owns the model, so that requests queue instead of competing for the
device. A job whose client has left is cancelled: it calls `check`
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
  """Nobody waits for the result of this job."""


class ModelQueue:
  """Runs jobs one at a time in a thread of its own."""

  def __init__(self, *, max_jobs: int, timeout_sec: float):
    """Creates the queue.

    Args:
      max_jobs: how many may wait or run; more are refused.
      timeout_sec: of one job, waiting included.
    """
    self._timeout_sec = timeout_sec
    self._places = threading.Semaphore(max_jobs)
    self._is_closed = threading.Event()
    self._pool = concurrent.futures.ThreadPoolExecutor(
      1, thread_name_prefix="model"
    )

  async def run(self, job: Callable[[Check], T], request=None) -> T:
    """Returns job(check).

    Args:
      job: calls `check` between its steps and lets pass what that raises.
      request: whose client waits; if it leaves, the job is cancelled.

    Raises:
      fastapi.HTTPException: 503 if too many jobs wait, 504 after the time.
    """
    if self._is_closed.is_set() or not self._places.acquire(blocking=False):
      raise busy("Too many requests wait; try again.")
    is_cancelled = threading.Event()

    def check(*_: Any) -> None:
      if is_cancelled.is_set() or self._is_closed.is_set():
        raise JobCancelledError

    def work() -> T:
      check()
      return job(check)

    submitted = self._pool.submit(work)
    # A job keeps its place until its thread is done with it.
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
          504, f"No answer within {self._timeout_sec:g} s."
        )
      await asyncio.wait({future}, timeout=min(left_sec, _POLL_SEC))
      if request is not None and await request.is_disconnected():
        raise fastapi.HTTPException(499, "The client left.")
    try:
      return future.result()
    except (JobCancelledError, asyncio.CancelledError):
      raise busy("The server stops.") from None

  def close(self) -> None:
    """Cancels all jobs; the running one ends with its step."""
    self._is_closed.set()
    self._pool.shutdown(wait=False, cancel_futures=True)


async def in_thread(function: Callable[..., T], *args: Any) -> T:
  """Returns function(*args), computed in a thread that no exit waits for.

  It is for work that cannot be cancelled, such as waiting for a child process.
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
    except BaseException as error:  # handed over to the one who waits
      raised = error
    with contextlib.suppress(RuntimeError):  # the server has ended
      loop.call_soon_threadsafe(finish, result, raised)

  threading.Thread(target=work, daemon=True).start()
  return await future


def busy(reason: str) -> fastapi.HTTPException:
  """Returns the refusal that asks the client to try again later."""
  headers = {"Retry-After": str(RETRY_AFTER_SEC), "Connection": "close"}
  return fastapi.HTTPException(503, reason, headers)


def _retrieve(future: asyncio.Future) -> None:
  """Retrieves the exception of an abandoned job, which asyncio would log."""
  if not future.cancelled():
    future.exception()
