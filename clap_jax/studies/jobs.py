"""Runs jobs, each in a process of its own or all in this one.

WORKDIR/jobs/NAME.json, NAME.log   what a process was to make, its output
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
  """Runs each job in a process of its own, which may die of anything."""

  def __init__(self):
    self._running: dict[str, subprocess.Popen] = {}
    self._lock = threading.Lock()
    self.stopping = False

  def run_all(
    self, jobs: Sequence[Job], store: ArtifactStore, *, parallel: int
  ) -> Iterator[Job]:
    """Runs `parallel` jobs at a time; yields each once it has ended."""
    with futures.ThreadPoolExecutor(max_workers=parallel) as pool:
      pending = {pool.submit(self.run, job, store): job for job in jobs}
      for future in futures.as_completed(pending):
        future.result()
        yield pending[future]

  def run(self, job: Job, store: ArtifactStore) -> None:
    """Runs a job to its end; a process that dies is noted as a failure."""
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
    """The exit code of a command, whose output is added to `log`."""
    with output.open_appending(log) as lines:
      process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=lines, stderr=lines
      )
      with self._lock:
        self._running[job.name] = process
      if self.stopping:  # asked to while it was being started
        process.terminate()
      code = process.wait()
      with self._lock:
        del self._running[job.name]
    return code

  def stop(self, job: Job) -> None:
    """Asks one job to save and leave."""
    with self._lock:
      process = self._running.get(job.name)
      if process is not None:
        process.terminate()

  def stop_all(self) -> None:
    """No job is started any more; those under way save and leave."""
    self.stopping = True
    with self._lock:
      for process in self._running.values():
        process.terminate()

  @contextlib.contextmanager
  def stopped_by_signals(self) -> Iterator[None]:
    """SIGTERM and Ctrl-C ask all processes to save and leave."""
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
  """Runs jobs here: without starting processes, and without protection."""

  stopping = False

  def run_all(
    self, jobs: Sequence[Job], store: ArtifactStore, *, parallel: int
  ) -> Iterator[Job]:
    del parallel
    for job in jobs:
      make_all(job.artifacts, store)
      yield job

  def stopped_by_signals(self) -> contextlib.AbstractContextManager:
    """Nothing to do: what is under way takes signals itself."""
    return contextlib.nullcontext()


Runner = Processes | InThisProcess
