"""Reads request bodies with limits on size and time."""

import asyncio
import time
from collections.abc import AsyncIterator

import fastapi
from starlette import requests


async def blocks(
  request: requests.Request,
  *,
  max_bytes: int,
  idle_sec: float,
  total_sec: float,
) -> AsyncIterator[bytes]:
  """Yields the body of a request, block by block.

  Args:
    request: the request.
    max_bytes: maximum size of the body; a larger Content-Length is rejected
      before the body is received.
    idle_sec: maximum wait for the next block.
    total_sec: maximum time for the whole body.

  Raises:
    fastapi.HTTPException: 413 if too large, 408 if too slow, 499 if the client
      disconnects.
  """
  stated = request.headers.get("content-length", "")
  if stated.isdecimal() and int(stated[:20]) > max_bytes:
    raise _too_large(max_bytes)
  deadline_sec = time.monotonic() + total_sec
  stream = request.stream()
  num_bytes = 0
  while True:
    wait_sec = min(idle_sec, deadline_sec - time.monotonic())
    try:
      async with asyncio.timeout(wait_sec):
        block = await anext(stream, None)
    except TimeoutError:
      raise _refused(
        408, f"The body paused for {idle_sec:g} s or took {total_sec:g} s."
      ) from None
    except requests.ClientDisconnect:
      raise _refused(499, "The client disconnected.") from None
    if block is None:
      return
    num_bytes += len(block)
    if num_bytes > max_bytes:
      raise _too_large(max_bytes)
    if block:
      yield block


def _too_large(max_bytes: int) -> fastapi.HTTPException:
  return _refused(
    413, f"The body is larger than {max_bytes / (1 << 20):g} MiB."
  )


def _refused(status: int, reason: str) -> fastapi.HTTPException:
  return fastapi.HTTPException(status, reason, {"Connection": "close"})
