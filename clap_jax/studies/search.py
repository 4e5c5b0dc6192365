"""Searches a config's space() adaptively.

Optuna proposes the points (tree-structured Parzen estimators) and prunes runs
whose metric is below the median of earlier runs at the same step. It is an
extra: pip install "clap_jax[study]".
"""

import importlib.util
import json
import math
import pathlib
import threading
from collections.abc import Mapping
from concurrent import futures
from typing import Any

from clap_jax.report import run_files, sweep_table
from clap_jax.studies import jobs, sweep
from clap_jax.studies.artifacts import ArtifactStore
from clap_jax.trainers import registry
from clap_jax.training import workdir as workdir_lib
from clap_jax.training import writer

STUDY_FILE = "study.log"
_POLL_SEC = 2.0
_WARM_UP_TRIALS = 4  # trials before the first is pruned


def search(
  space: Mapping[str, tuple],
  runner: jobs.Processes,
  store: ArtifactStore,
  *,
  resolve: sweep.Resolve,
  num_trials: int,
  parallel: int,
  metric: str,
  seed: int,
) -> tuple[list[sweep.Run], list[sweep.Run]]:
  """Runs trials until there are `num_trials`, including earlier calls'.

  Args:
    space: key -> ("uniform", low, high), ("log_uniform", low, high), or a
      tuple of values.
    store: store of the sweep; its workdir also keeps Optuna's study.
    resolve: overrides -> the dataclass of the run's config.
    metric: metric to maximise: the last part of its name, like "average_map".

  Returns:
    (runs, the runs among them that were pruned).

  Raises:
    ValueError: Optuna is not installed, the space is empty, or a finished run
      has another config.
  """
  if importlib.util.find_spec("optuna") is None:
    raise ValueError('--trials needs Optuna: pip install "clap_jax[study]".')
  import optuna  # noqa: PLC0415 # pyright: ignore[reportMissingImports]

  if not space:
    raise ValueError("space() of the config is empty; expected config keys.")
  states = optuna.trial.TrialState
  lock, runs, pruned = threading.Lock(), {}, {}

  def planned(overrides) -> sweep.Run:
    (run,) = sweep.plan([overrides], store, resolve=resolve)
    return runs.setdefault(run.artifact.name, run)

  def one(_):
    if runner.stopping:
      return
    with lock:
      trial = study.ask()
      run = planned(
        {key: _suggest(trial, key, axis) for key, axis in space.items()}
      )
    is_pruned = _try(trial, run, runner, store, metric)
    outcome = sweep.outcome(run, store)
    value = _result(run, store, metric)
    with lock:
      if value is not None:
        study.tell(trial, value)
      elif is_pruned:
        pruned[run.artifact.name] = run
        study.tell(trial, state=states.PRUNED)
      elif outcome == sweep_table.FAILED:
        study.tell(trial, state=states.FAIL)

  with workdir_lib.locked(store.workdir), runner.stopped_by_signals():
    study = _open_study(store.workdir, seed)
    known = [
      trial
      for trial in study.trials
      if trial.state in (states.COMPLETE, states.PRUNED)
    ]
    for trial in known:  # the summary includes them
      run = planned(trial.params)
      if trial.state == states.PRUNED:
        pruned[run.artifact.name] = run
    with futures.ThreadPoolExecutor(max_workers=parallel) as pool:
      list(pool.map(one, range(max(num_trials - len(known), 0))))
  return list(runs.values()), list(pruned.values())


def _open_study(workdir: pathlib.Path, seed: int):
  """Opens the Optuna study of a workdir; queues stopped trials again."""
  import optuna  # noqa: PLC0415 # pyright: ignore[reportMissingImports]

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
  # A resumed search must not propose its first points again.
  study.sampler = optuna.samplers.TPESampler(seed=seed + len(study.trials))
  states = optuna.trial.TrialState
  for trial in study.trials:
    if trial.state == states.RUNNING:
      study.tell(trial.number, state=states.FAIL)
      study.enqueue_trial(trial.params)
  return study


def _suggest(trial, key: str, axis: tuple) -> Any:
  if axis[0] in ("uniform", "log_uniform"):
    return trial.suggest_float(
      key, axis[1], axis[2], log=axis[0] == "log_uniform"
    )
  return trial.suggest_categorical(key, axis)


def _try(trial, run, runner, store, metric) -> bool:
  """Runs a trial; returns True if it was pruned."""
  pruned, over = threading.Event(), threading.Event()
  directory = store.directory(run.artifact.name)
  reported: set[int] = set()

  def report():
    for step, value in evaluations(directory, metric).items():
      if step not in reported:
        reported.add(step)
        trial.report(value, step)

  def watch():
    while not over.wait(_POLL_SEC):
      report()
      if reported and trial.should_prune():
        pruned.set()
        runner.stop(run.job)
        return

  watcher = threading.Thread(target=watch, daemon=True)
  watcher.start()
  if not registry.is_finished(directory):
    store.forget_failure(run.artifact.name)
    runner.run(run.job, store)
  over.set()
  watcher.join()
  report()  # the last evaluations, to which later trials are compared
  return pruned.is_set() and sweep.outcome(run, store) == sweep_table.STOPPED


def evaluations(workdir: pathlib.Path, metric: str) -> dict[int, float]:
  """Returns step -> the metric on the selection split, as far as written."""
  path = workdir / writer.METRICS_FILE
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


def _result(run: sweep.Run, store: ArtifactStore, metric: str) -> float | None:
  """Returns the objective: the last evaluation on the selection split.

  The test split, evaluated once at the end, must not guide the search.

  Raises:
    ValueError: the run is finished and lacks the metric.
  """
  directory = store.directory(run.artifact.name)
  if not registry.is_finished(directory):
    return None
  found = evaluations(directory, metric)
  if not found:
    names = sorted(
      key.rpartition("/")[2]
      for key in run_files.scalar_keys(directory / writer.METRICS_FILE)
      if key.startswith("eval/")
    )
    raise ValueError(
      f"--metric: {metric!r} is not evaluated; choose from {json.dumps(names)}."
    )
  return found[max(found)]
