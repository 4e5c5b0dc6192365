"""Runs one config with different overrides, each in its own directory.

WORKDIR/runs/NAME/   the workdir of a run of `clap train`
WORKDIR/summary.csv  summary.html
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from clap_jax import config as config_lib
from clap_jax.evaluation import results
from clap_jax.report import (
  content,
  coordinates,
  page,
  run_files,
  sweep_table,
)
from clap_jax.storage import output
from clap_jax.studies.artifacts import Artifact, ArtifactStore, Job
from clap_jax.trainers import registry
from clap_jax.training import writer

SUMMARY_CSV, SUMMARY_HTML = "summary.csv", "summary.html"
_FOLDER = "runs"
_NAME_LENGTH = 80
_NUM_CURVES = 5  # runs whose curves are drawn

Overrides = Mapping[str, Any]  # config key -> value
Resolve = Callable[[Overrides], Any]  # the dataclass of a run's config


@dataclasses.dataclass(frozen=True)
class Run:
  """One point of a sweep."""

  overrides: Overrides
  artifact: Artifact

  @property
  def job(self) -> Job:
    return Job(self.artifact.label, (self.artifact,))


def plan(
  points: Iterable[Overrides], store: ArtifactStore, *, resolve: Resolve
) -> list[Run]:
  """Plans the runs of a sweep, named by their overrides.

  Raises:
    ValueError: there is no run, two are the same, a config is invalid or
      differs from that of the finished run, or a path is a symbolic link.
  """
  for name in (SUMMARY_CSV, SUMMARY_HTML):
    output.check_links(store.workdir / name)
  runs = [_run(point, store, resolve) for point in points]
  if not runs:
    raise ValueError("sweep() of the config yields no runs.")
  names = [run.artifact.label for run in runs]
  twice = sorted({name for name in names if names.count(name) > 1})
  if twice:
    raise ValueError(f"sweep() yields the same run twice: {', '.join(twice)}.")
  return runs


def _run(point: Overrides, store: ArtifactStore, resolve: Resolve) -> Run:
  name = name_of(point)
  directory = store.directory(f"{_FOLDER}/{name}")
  output.check_links(directory, store.workdir)
  resolved = resolve(point)
  if registry.is_finished(directory):
    registry.check_same(directory, resolved)
  artifact = Artifact(
    kind="train",
    name=f"{_FOLDER}/{name}",
    label=name,
    config=config_lib.as_dict(resolved),
  )
  return Run(dict(point), artifact)


def name_of(overrides: Overrides) -> str:
  """Returns a readable, safe directory name, unique per overrides."""
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


def flags(overrides: Overrides) -> list[str]:
  """Converts overrides to command-line flags."""
  return [f"--config.{key}={value}" for key, value in overrides.items()]


def outcome(
  run: Run, store: ArtifactStore, pruned: Collection[Run] = ()
) -> str:
  """Returns the outcome of a run: done, failed, pruned or stopped."""
  if registry.is_finished(store.directory(run.artifact.name)):
    return sweep_table.DONE
  if store.failure(run.artifact.name) is not None:
    return sweep_table.FAILED
  return sweep_table.PRUNED if run in pruned else sweep_table.STOPPED


def summarize(
  runs: Iterable[Run],
  store: ArtifactStore,
  *,
  metric: str | None,
  title: str,
  pruned: Collection[Run] = (),
) -> sweep_table.SweepTable:
  """Writes summary.csv and summary.html from the files of the runs.

  Raises:
    ValueError: no run has the metric.
  """
  entries = [_entry(run, store, outcome(run, store, pruned)) for run in runs]
  try:
    table, failure = sweep_table.SweepTable.of(entries, metric=metric), None
  except ValueError as error:  # write a summary even if the metric is wrong
    table, failure = sweep_table.SweepTable.of(entries, metric=None), error
  output.write_text(store.workdir / SUMMARY_CSV, sweep_table.csv_text(table))
  page.write_report(store.workdir / SUMMARY_HTML, report(table, title))
  if failure is not None:
    raise failure
  return table


def report(table: sweep_table.SweepTable, title: str) -> page.Report:
  svg = coordinates.parallel_coordinates(table)
  ranked = f" Ranked by {table.metric}." if table.metric else ""
  return page.Report(
    title=title,
    subtitle=f"{len(table.entries)} runs, {len(table.unfinished)} of them not "
    f"finished.{ranked}",
    figures=[content.Figure("Settings and results", svg)] if svg else (),
    charts=_best_curves(table),
    listings=[
      content.Listing(
        "All runs, best first",
        ("run", "outcome", *table.keys, *table.metrics),
        [
          (
            entry.name,
            entry.outcome,
            *(coordinates.shown(entry.overrides.get(k)) for k in table.keys),
            *(coordinates.shown(entry.metrics.get(n)) for n in table.metrics),
          )
          for entry in table.ranked
        ],
      )
    ],
    failed=[
      (entry.name, "; ".join(filter(None, (entry.outcome, entry.reason))))
      for entry in table.unfinished
    ],
  )


def _best_curves(table: sweep_table.SweepTable) -> list[content.Chart]:
  """Charts every scalar of the training records of the best runs."""
  best = [entry for entry in table.ranked if entry.curves][:_NUM_CURVES]
  charts = []
  for key in dict.fromkeys(key for entry in best for key in entry.curves):
    lines = [entry.curves[key] for entry in best if key in entry.curves]
    if any(len(line.steps) > 1 for line in lines):
      charts.append(
        content.Chart(key, lines, y_label=key, smooth=key == "train/loss")
      )
  return charts


def document(table: sweep_table.SweepTable) -> dict:
  """Returns the sweep as JSON values; `failed_runs` counts failures."""
  return {
    "metric": table.metric,
    "failed_runs": sum(e.outcome == sweep_table.FAILED for e in table.entries),
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


def _entry(run: Run, store: ArtifactStore, result: str) -> sweep_table.Entry:
  directory = store.directory(run.artifact.name)
  curves = {}
  record = directory / writer.METRICS_FILE
  if record.is_file():
    curves = {
      key: run_files.curve(record, key, name=run.artifact.label)
      for key in run_files.scalar_keys(record)
      if key == "train/loss" or key.startswith("eval/")
    }
  return sweep_table.Entry(
    name=run.artifact.label,
    outcome=result,
    reason=store.failure(run.artifact.name) or "",
    overrides=run.overrides,
    metrics={
      f"{row['task']}/{row['split']}/{row['metric']}": row["value"]
      for row in results.read(directory)
    },
    curves=curves,
  )
