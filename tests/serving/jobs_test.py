"""Jobs are bounded, cancelled between steps, and end with the server."""

import asyncio
import threading
import time

import fastapi
import pytest

from clap_jax.serving import jobs


class Steps:
  """A job of many short steps that counts them."""

  def __init__(self, count):
    self.count = count
    self.done = 0
    self.started = threading.Event()
    self.ended = threading.Event()

  def __call__(self, check):
    self.started.set()
    try:
      for _ in range(self.count):
        check("ignored", 1.0)
        time.sleep(0.01)
        self.done += 1
      return self.done
    finally:
      self.ended.set()


class LeavingClient:
  def __init__(self):
    self.has_left = False

  async def is_disconnected(self):
    return self.has_left


def refusal(status):
  return pytest.raises(
    fastapi.HTTPException, check=lambda e: e.status_code == status
  )


def test_a_job_that_takes_too_long_is_cancelled_between_steps():
  async def run():
    queue = jobs.ModelQueue(max_jobs=2, timeout_sec=0.1)
    slow = Steps(10_000)
    with refusal(504):
      await queue.run(slow)
    assert await asyncio.to_thread(slow.ended.wait, 10)
    assert 0 < slow.done < 1000
    assert await queue.run(Steps(3)) == 3  # the thread is free again
    queue.close()

  asyncio.run(run())


def test_jobs_that_wait_too_long_never_start():
  async def run():
    queue = jobs.ModelQueue(max_jobs=5, timeout_sec=0.2)
    all_steps = [Steps(10_000) for _ in range(5)]
    results = await asyncio.gather(
      *map(queue.run, all_steps), return_exceptions=True
    )
    assert [error.status_code for error in results] == [504] * 5
    assert await queue.run(Steps(1)) == 1
    assert [steps.started.is_set() for steps in all_steps] == (
      [True] + [False] * 4
    )
    queue.close()

  asyncio.run(run())


def test_too_many_jobs_are_refused_at_once():
  async def run():
    queue = jobs.ModelQueue(max_jobs=3, timeout_sec=30)
    results = await asyncio.gather(
      *(queue.run(Steps(5)) for _ in range(20)), return_exceptions=True
    )
    refused = [r for r in results if isinstance(r, fastapi.HTTPException)]
    assert results.count(5) == 3 and len(refused) == 17
    for error in refused:
      assert error.status_code == 503 and int(error.headers["Retry-After"]) > 0
    queue.close()

  asyncio.run(run())


def test_a_client_that_leaves_cancels_its_job():
  async def run():
    queue = jobs.ModelQueue(max_jobs=1, timeout_sec=60)
    steps, client = Steps(10_000), LeavingClient()
    waiting = asyncio.create_task(queue.run(steps, client))
    assert await asyncio.to_thread(steps.started.wait, 10)
    client.has_left = True
    with refusal(499):
      await waiting
    assert await asyncio.to_thread(steps.ended.wait, 10)
    queue.close()

  asyncio.run(run())


def test_the_end_of_the_server_ends_all_jobs():
  async def run():
    queue = jobs.ModelQueue(max_jobs=3, timeout_sec=60)
    all_steps = [Steps(10_000) for _ in range(3)]
    tasks = [asyncio.create_task(queue.run(steps)) for steps in all_steps]
    assert await asyncio.to_thread(all_steps[0].started.wait, 10)
    queue.close()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [error.status_code for error in results] == [503] * 3
    assert all_steps[0].ended.wait(10)
    assert not all_steps[2].started.is_set()
    with refusal(503):
      await queue.run(Steps(1))

  asyncio.run(run())


@pytest.mark.parametrize("error", [None, ValueError("no"), OSError(28, "full")])
def test_errors_of_threads_are_raised_where_they_are_awaited(error):
  def work(value):
    if error:
      raise error
    return value

  async def run():
    if error:
      with pytest.raises(type(error)):
        await jobs.in_thread(work, 1)
    else:
      assert await jobs.in_thread(work, 1) == 1

  asyncio.run(run())
