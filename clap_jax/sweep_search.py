"""Searches a config's space() adaptively.

Optuna proposes the points (tree-structured Parzen estimators) and gives up runs
whose evaluations lie below the median of the earlier ones at the same step. It
is an extra: pip install "clap_jax[study]".
"""

import importlib.util
import json
import math
import pathlib
import threading
from collections.abc import Callable, Mapping
from concurrent import futures
from typing import Any

from clap_jax import sweep
from clap_jax.report import run_files, sweep_table

STUDY_FILE = "study.log"
_POLL_SEC = 2.0
_WARM_UP_TRIALS = 4  # before any is given up
GIVEN_UP = "given up"


def search(
  space: Mapping[str, tuple],
  runner: sweep.Runner,
  *,
  workdir: str | pathlib.Path,
  num_trials: int,
  parallel: int,
  metric: str,
  seed: int,
  check: Callable[[sweep.Run], None] = lambda run: None,
) -> tuple[list[sweep.Run], dict[str, str]]:
  """Makes runs up to `num_trials` in all, counting those of earlier calls.

  Args:
    space: key -> ("uniform", low, high), ("log_uniform", low, high), or a
      tuple of values.
    runner: of single runs.
    workdir: of the sweep; remembers the study.
    num_trials: the budget.
    parallel: runs at a time.
    metric: to be maximised: the last part of its name, like "average_map".
    seed: of the proposals.
    check: raises what is wrong with a finished run of an earlier call.

  Returns:
    (runs, their outcomes by name).

  Raises:
    ValueError: if Optuna is not installed or the space is empty.
  """
  if importlib.util.find_spec("optuna") is None:
    raise ValueError('--trials needs Optuna: pip install "clap_jax[study]".')
  import optuna  # noqa: PLC0415  (an extra)

  if not space:
    raise ValueError("space() of the config has no axes.")
  workdir = pathlib.Path(workdir)
  workdir.mkdir(parents=True, exist_ok=True)
  optuna.logging.set_verbosity(optuna.logging.WARNING)
  backend = optuna.storages.journal.JournalFileBackend(
    str(workdir / STUDY_FILE)
  )
  study = optuna.create_study(
    study_name="clap",
    storage=optuna.storages.JournalStorage(backend),
    direction="maximize",
    load_if_exists=True,
    pruner=optuna.pruners.MedianPruner(n_startup_trials=_WARM_UP_TRIALS),
  )
  # A search that goes on must not propose its first points again.
  study.sampler = optuna.samplers.TPESampler(seed=seed + len(study.trials))
  states = optuna.trial.TrialState
  for trial in study.trials:  # of a search that was stopped: run on
    if trial.state == states.RUNNING:
      study.tell(trial.number, state=states.FAIL)
      study.enqueue_trial(trial.params)
  lock, runs, outcomes = threading.Lock(), {}, {}

  def finished():
    return sum(
      trial.state in (states.COMPLETE, states.PRUNED) for trial in study.trials
    )

  def one(_):
    if runner.stopping:
      return
    with lock:
      trial = study.ask()
      overrides = {
        key: _suggest(trial, key, axis) for key, axis in space.items()
      }
      (run,) = sweep.plan([overrides], workdir)
      runs[run.directory.name] = run
    outcome, value = _tried(trial, run, runner, metric)
    outcomes[run.directory.name] = outcome
    with lock:
      if outcome == sweep_table.DONE and value is not None:
        study.tell(trial, value)
      elif outcome == GIVEN_UP:
        study.tell(trial, state=states.PRUNED)
      elif outcome != sweep_table.STOPPED:
        study.tell(trial, state=states.FAIL)

  for trial in study.trials:  # earlier ones belong into the summary too
    if trial.state in (states.COMPLETE, states.PRUNED):
      (run,) = sweep.plan([trial.params], workdir)
      if run.done:
        check(run)
      runs[run.directory.name] = run
      outcomes[run.directory.name] = sweep_table.DONE if run.done else GIVEN_UP
  with futures.ThreadPoolExecutor(max_workers=parallel) as pool:
    list(pool.map(one, range(max(num_trials - finished(), 0))))
  return list(runs.values()), outcomes


def _suggest(trial, key: str, axis: tuple) -> Any:
  if axis[0] in ("uniform", "log_uniform"):
    return trial.suggest_float(
      key, axis[1], axis[2], log=axis[0] == "log_uniform"
    )
  return trial.suggest_categorical(key, axis)


def _tried(trial, run, runner, metric) -> tuple[str, float | None]:
  """Runs a trial, and gives it up where its evaluations lag behind."""
  given_up, over = threading.Event(), threading.Event()

  told: set[int] = set()

  def tell():
    for step, value in evaluations(run.directory, metric).items():
      if step not in told:
        told.add(step)
        trial.report(value, step)

  def watch():
    while not over.wait(_POLL_SEC):
      tell()
      if told and trial.should_prune():
        given_up.set()
        runner.stop(run)
        return

  watcher = threading.Thread(target=watch, daemon=True)
  watcher.start()
  outcome = runner(run)
  over.set()
  watcher.join()
  tell()  # the last ones: later trials are measured by them
  if given_up.is_set() and outcome == sweep_table.STOPPED:
    return GIVEN_UP, None
  return outcome, _result(run, metric)


def evaluations(workdir: pathlib.Path, metric: str) -> dict[int, float]:
  """Step -> the metric on the selection split, as far as it is written."""
  path = workdir / "metrics.jsonl"
  if not path.is_file():
    return {}
  keys = [
    key
    for key in run_files.scalar_keys(path)
    if key.startswith("eval/") and key.rpartition("/")[2] == metric
  ]
  if not keys:
    return {}
  curve = run_files.curve(path, keys[0], name=metric)
  return {
    int(step): value
    for step, value in zip(curve.steps, curve.values, strict=True)
    if math.isfinite(value)
  }


def _result(run: sweep.Run, metric: str) -> float | None:
  """Returns the objective: the last evaluation on the selection split.

  Never the split that is looked at once, at the end.

  Raises:
    ValueError: if the run is done and has no such metric.
  """
  if not run.done:
    return None
  found = evaluations(run.directory, metric)
  if not found:
    path = run.directory / "metrics.jsonl"
    names = sorted(
      key.rpartition("/")[2]
      for key in run_files.scalar_keys(path)
      if key.startswith("eval/")
    )
    raise ValueError(
      f"--metric: {metric!r} is not evaluated; choose from {json.dumps(names)}."
    )
  return found[max(found)]
