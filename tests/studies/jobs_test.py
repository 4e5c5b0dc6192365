"""Stopping processes of jobs: they save and leave, and no other is started."""

import os
import signal
import sys
import threading
import time

import pytest

from clap_jax.studies import artifacts, jobs

# Says that it runs; leaves like a run that saved.
SCRIPT = """#!/bin/sh
trap 'exit 0' TERM
echo up
sleep 60 &
wait
"""


@pytest.fixture
def sleeping(tmp_path, monkeypatch):
  script = tmp_path / "python"
  script.write_text(SCRIPT)
  script.chmod(0o755)
  monkeypatch.setattr(sys, "executable", str(script))
  store = artifacts.ArtifactStore(tmp_path / "w")
  made = [
    artifacts.Job(
      name, (artifacts.Artifact("train", f"runs/{name}", name, {}),)
    )
    for name in ("first", "second")
  ]
  return made, store


def soon(action, store):
  """Calls `action` once the first process runs."""

  def wait():
    log = store.workdir / jobs.FOLDER / "first.log"
    deadline = time.monotonic() + 60
    while not (log.is_file() and log.read_text()):
      assert time.monotonic() < deadline
      time.sleep(0.01)
    action()

  thread = threading.Thread(target=wait)
  thread.start()
  return thread


def test_a_signal_stops_all(sleeping):
  made, store = sleeping
  runner = jobs.Processes()
  thread = soon(lambda: os.kill(os.getpid(), signal.SIGTERM), store)
  with runner.stopped_by_signals():
    ended = list(runner.run_all(made, store, parallel=1))
  thread.join()
  assert runner.stopping
  assert sorted(job.label for job in ended) == ["first", "second"]
  assert not (store.workdir / jobs.FOLDER / "second.log").exists()
  for job in made:  # stopped is not failed
    assert store.failure(job.artifacts[0].name) is None
    assert not store.has(job.artifacts[0].name)


def test_one_is_stopped_alone(sleeping):
  (first, _), store = sleeping
  runner = jobs.Processes()
  thread = soon(lambda: runner.stop(first), store)
  runner.run(first, store)
  thread.join()
  assert not runner.stopping
  assert store.failure(first.artifacts[0].name) is None
