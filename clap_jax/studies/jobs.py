"""Runs jobs, each in its own process or all in this one.

WORKDIR/jobs/NAME.json, NAME.log   the artifacts of a process, its output
"""

import contextlib
import dataclasses
import pathlib
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent import futures

from clap_jax.evaluation import results
from clap_jax.storage import output
from clap_jax.studies.artifacts import ArtifactStore, Job, make_all

FOLDER = "jobs"


class Processes:
  """Runs each job in its own process, so that a crash stops no other job."""

  def __init__(self):
    self._running: dict[str, subprocess.Popen] = {}
    self._lock = threading.Lock()
    self.stopping = False

  def run_all(
    self, jobs: Sequence[Job], store: ArtifactStore, *, parallel: int
  ) -> Iterator[Job]:
    """Runs `parallel` jobs at a time; yields each when it ends."""
    with futures.ThreadPoolExecutor(max_workers=parallel) as pool:
      pending = {pool.submit(self.run, job, store): job for job in jobs}
      for future in futures.as_completed(pending):
        future.result()
        yield pending[future]

  def run(self, job: Job, store: ArtifactStore) -> None:
    """Runs a job and waits; records a crash of its process as a failure."""
    if self.stopping:
      return
    path = store.workdir / FOLDER / f"{job.name}.json"
    log = path.with_suffix(".log")
    output.make_folder(path.parent, folder=store.workdir)
    results.write_json(path, dataclasses.asdict(job))
    command = [sys.executable, "-m", "clap_jax.studies.worker"]
    code = self._wait(job, [*command, str(store.workdir), str(path)], log)
    if code in (0, 3) or self.stopping:
      return
    missing = [a.name for a in job.artifacts if not store.has(a.name)]
    if missing and store.failure(missing[0]) is None:
      store.note_failure(
        missing[0], f"its process ended with code {code}; see {log}"
      )

  def _wait(self, job: Job, command: Sequence[str], log: pathlib.Path) -> int:
    """Runs a command, appends its output to `log`, returns its exit code."""
    with output.open_appending(log) as lines:
      process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=lines, stderr=lines
      )
      with self._lock:
        self._running[job.name] = process
      if self.stopping:  # requested while the process was starting
        process.terminate()
      code = process.wait()
      with self._lock:
        del self._running[job.name]
    return code

  def stop(self, job: Job) -> None:
    """Asks one job to save and exit."""
    with self._lock:
      process = self._running.get(job.name)
      if process is not None:
        process.terminate()

  def stop_all(self) -> None:
    """Starts no further job; asks running jobs to save and exit."""
    self.stopping = True
    with self._lock:
      for process in self._running.values():
        process.terminate()

  @contextlib.contextmanager
  def stopped_by_signals(self) -> Iterator[None]:
    """Calls `stop_all` on SIGTERM and Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():
      yield
      return
    previous = {
      number: signal.signal(number, lambda *_: self.stop_all())
      for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
      yield
    finally:
      for number, handler in previous.items():
        signal.signal(number, handler)


class InThisProcess:
  """Runs jobs in this process; a crash of one stops all."""

  stopping = False

  def run_all(
    self, jobs: Sequence[Job], store: ArtifactStore, *, parallel: int
  ) -> Iterator[Job]:
    del parallel
    for job in jobs:
      make_all(job.artifacts, store)
      yield job

  def stopped_by_signals(self) -> contextlib.AbstractContextManager:
    """Does nothing: the running stage handles signals itself."""
    return contextlib.nullcontext()


Runner = Processes | InThisProcess
