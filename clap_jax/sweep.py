"""Runs many settings of one config, each in its own process.

DIR/runs/NAME/ is the workdir of one `clap train`, so that a sweep that was
stopped goes on where it was, run by run. A run that fails is listed and the
others go on.
"""

import contextlib
import dataclasses
import hashlib
import json
import pathlib
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
from typing import Any

from clap_jax.evaluation import results
from clap_jax.report import files, run_files, sweep_page, sweep_table
from clap_jax.storage import output, untrusted

RUNS_DIRECTORY = "runs"
SUMMARY_CSV, SUMMARY_HTML = "summary.csv", "summary.html"
_NAME_LENGTH = 80


@dataclasses.dataclass(frozen=True)
class Run:
  """One point of a sweep."""

  overrides: Mapping[str, Any]  # config key -> value
  directory: pathlib.Path  # its workdir

  @property
  def log(self) -> pathlib.Path:
    return self.directory.with_name(f"{self.directory.name}.log")

  @property
  def done(self) -> bool:
    return (self.directory / results.RESULTS_FILE).is_file()


def plan(
  overrides: Sequence[Mapping[str, Any]], workdir: str | pathlib.Path
) -> list[Run]:
  """The runs of a sweep, named after what they override.

  Raises:
    ValueError: if there is none, two are the same, or links lead out of the
      directory.
  """
  root = pathlib.Path(workdir) / RUNS_DIRECTORY
  runs = [Run(dict(point), root / name_of(point)) for point in overrides]
  if not runs:
    raise ValueError("sweep() of the config yields no runs.")
  names = [run.directory.name for run in runs]
  twice = sorted({name for name in names if names.count(name) > 1})
  if twice:
    raise ValueError(f"sweep() yields the same run twice: {', '.join(twice)}.")
  for path in (SUMMARY_CSV, SUMMARY_HTML):
    output.check_links(pathlib.Path(workdir, path))
  for run in runs:
    output.check_links(run.directory, workdir)
    output.check_links(run.log)
  return runs


def name_of(overrides: Mapping[str, Any]) -> str:
  """A directory name: readable, safe, and another one for other overrides."""
  text = json.dumps(dict(overrides), sort_keys=True, default=repr)
  digest = hashlib.sha256(text.encode()).hexdigest()[:8]
  words = [
    f"{key.rpartition('.')[2]}={value:g}"
    if isinstance(value, float)
    else f"{key.rpartition('.')[2]}={value}"
    for key, value in overrides.items()
  ]
  readable = re.sub(r"[^A-Za-z0-9=._+-]+", "_", ",".join(words))
  return f"{readable[:_NAME_LENGTH].strip('._-') or 'default'}-{digest}"


def flags(overrides: Mapping[str, Any]) -> list[str]:
  """Overrides as arguments of `clap train`; never seen by a shell."""
  return [f"--config.{key}={value}" for key, value in overrides.items()]


class Children:
  """Processes under way, which can be asked to save and leave."""

  def __init__(self):
    self._running: dict[str, subprocess.Popen] = {}
    self._lock = threading.Lock()
    self.stopping = False

  def run(self, name: str, command: Sequence[str], log: pathlib.Path) -> int:
    """The exit code of a command, whose output is added to `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with output.open_appending(log) as lines:
      process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=lines, stderr=lines
      )
      with self._lock:
        self._running[name] = process
      if self.stopping:  # asked to while it was being started
        process.terminate()
      code = process.wait()
      with self._lock:
        del self._running[name]
    return code

  def stop_one(self, name: str) -> None:
    with self._lock:
      process = self._running.get(name)
      if process is not None:
        process.terminate()

  def stop_all(self) -> None:
    """None is started any more; those under way save and leave."""
    self.stopping = True
    with self._lock:
      for process in self._running.values():
        process.terminate()


class Runner(Children):
  """Runs `clap train` for points of a sweep, several at a time."""

  def __init__(self, config: str, *, extra: Sequence[str] = ()):
    """Starts nothing yet.

    Args:
      config: FILE[:argument] of `clap train`.
      extra: further --config.KEY=VALUE for every run.
    """
    super().__init__()
    self._config = config
    self._extra = list(extra)

  def __call__(self, run: Run) -> str:
    """The outcome of a run: done, stopped, or failed with its exit code."""
    if run.done:
      return sweep_table.DONE
    if self.stopping:
      return sweep_table.STOPPED
    command = [sys.executable, "-m", "clap_jax.main", "train"]
    command += [f"--config={self._config}", f"--workdir={run.directory}"]
    command += [*self._extra, *flags(run.overrides)]
    code = self.run(run.directory.name, command, run.log)
    if run.done:
      return sweep_table.DONE
    if code == 0 or self.stopping:
      return sweep_table.STOPPED
    return f"{sweep_table.FAILED} with exit code {code}"

  def stop(self, run: Run) -> None:
    """Asks one run to save and leave."""
    self.stop_one(run.directory.name)


def run_all(
  runs: Sequence[Run],
  runner: Callable[[Run], str],
  *,
  parallel: int,
  on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, str]:
  """Runs all, `parallel` at a time; the outcome of each by its name."""
  outcomes = {}
  with futures.ThreadPoolExecutor(max_workers=parallel) as pool:
    pending = {pool.submit(runner, run): run for run in runs}
    for future in futures.as_completed(pending):
      outcomes[pending[future].directory.name] = future.result()
      if on_progress is not None:
        on_progress(len(outcomes), len(runs))
  return outcomes


@contextlib.contextmanager
def stopped_by_signals(runner: Children) -> Iterator[None]:
  """SIGTERM and Ctrl-C ask all processes to save and leave."""
  if threading.current_thread() is not threading.main_thread():
    yield
    return
  numbers = (signal.SIGTERM, signal.SIGINT)
  previous = {
    number: signal.signal(number, lambda *_: runner.stop_all())
    for number in numbers
  }
  try:
    yield
  finally:
    for number, handler in previous.items():
      signal.signal(number, handler)


def summarize(
  runs: Sequence[Run],
  outcomes: Mapping[str, str],
  workdir: str | pathlib.Path,
  *,
  metric: str | None,
  title: str,
) -> sweep_table.SweepTable:
  """Writes summary.csv and summary.html from what the runs left behind.

  Raises:
    ValueError: if no run has the metric.
  """
  workdir = pathlib.Path(workdir)
  entries = [_entry(run, outcomes[run.directory.name]) for run in runs]
  try:
    table, complaint = sweep_table.SweepTable.of(entries, metric=metric), None
  except ValueError as error:  # hours of runs are worth a summary all the same
    table, complaint = sweep_table.SweepTable.of(entries, metric=None), error
  files.write_text(workdir / SUMMARY_CSV, sweep_table.csv_text(table))
  files.write_text(
    workdir / SUMMARY_HTML, sweep_page.render(table, title=title)
  )
  if complaint is not None:
    raise complaint
  return table


def document(table: sweep_table.SweepTable) -> dict:
  """The sweep as JSON values; `failed_runs` counts those that failed."""
  return {
    "metric": table.metric,
    "failed_runs": sum(
      entry.outcome.startswith(sweep_table.FAILED) for entry in table.entries
    ),
    "runs": [
      {
        "name": entry.name,
        "outcome": entry.outcome,
        "reason": entry.reason,
        "overrides": dict(entry.overrides),
        "metrics": dict(entry.metrics),
      }
      for entry in table.ranked
    ],
  }


def _entry(run: Run, outcome: str) -> sweep_table.Entry:
  rows = results.read(run.directory)
  metrics = {
    f"{row['task']}/{row['split']}/{row['metric']}": row["value"]
    for row in rows
  }
  curves = {}
  record = run.directory / "metrics.jsonl"
  if record.is_file():
    keys = run_files.scalar_keys(record)
    curves = {
      key: run_files.curve(record, key, name=run.directory.name)
      for key in keys
      if key == "train/loss" or key.startswith("eval/")
    }
  return sweep_table.Entry(
    name=run.directory.name,
    outcome=outcome,
    reason="" if outcome == sweep_table.DONE else _last_line(run.log),
    overrides=dict(run.overrides),
    metrics=metrics,
    curves=curves,
  )


def _last_line(log: pathlib.Path) -> str:
  if not log.is_file():
    return ""
  text = untrusted.read_bytes(log).decode("utf-8", "replace")
  lines = text.split("\n")
  lines = [line for line in lines if line.strip()]
  return lines[-1].strip()[:300] if lines else ""
