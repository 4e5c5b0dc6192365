"""Draws a study's results over a property of its datasets."""

import functools
import pathlib
from collections.abc import Sequence

from clap_jax.data import records
from clap_jax.report import content, metric_names, result_table
from clap_jax.studies import settings
from clap_jax.studies.artifacts import DATA, Artifact, ArtifactStore


def charts(
  config: settings.StudyConfig,
  table: result_table.ResultTable,
  made: Sequence[Artifact],
  store: ArtifactStore,
) -> list[content.Chart]:
  """Charts the rows' means and differences, per property and task."""
  folders = {a.dataset: store.directory(a.name) for a in made if a.kind == DATA}
  found = []
  for item in config.properties.values():
    names = {settings.variant(config, item, v): v for v in sorted(item.values)}
    at = {name: value for name, value in names.items() if name in folders}
    if item.measure_background:
      at = {name: _background_share(folders[name], name) for name in at}
    for task in table.tasks:
      found += _charts(item, table, task, at)
  return found


@functools.cache  # the page is written after every job
def _background_share(directory: pathlib.Path, dataset: str) -> float:
  """Returns the share of the training videos' time without an action."""
  infos = records.open_dataset(directory, dataset).examples("train")
  background_sec = sum(
    float(end_sec - start_sec)
    for info in infos
    for start_sec, end_sec in info.background
  )
  return background_sec / sum(info.duration_sec for info in infos)


def _charts(item, table, task: str, at: dict[str, float]):
  metric = table.primary(task)
  name = metric_names.describe(metric).text
  title = metric_names.TASK_TITLES.get(task, task)
  by_row, gains = [], []
  for row in item.rows or table.rows:
    points = [
      (x, table.cell(dataset, task, metric, row=row))
      for dataset, x in sorted(at.items(), key=lambda pair: pair[1])
    ]
    points = [(x, cell) for x, cell in points if cell.values]
    if points:
      xs, cells = zip(*points, strict=True)
      by_row.append(content.Curve(row, xs, [c.estimate.mean for c in cells]))
      if row != table.reference and table.reference:
        gains.append(content.Curve(row, xs, [c.difference.mean for c in cells]))
  shared = {"x_label": item.x_label, "smooth": False}
  charts = [
    content.Chart(
      title=f"{item.title}: {title}", curves=by_row, y_label=name, **shared
    ),
    content.Chart(
      title=f"{item.title}: what {table.reference} adds, {title}",
      curves=gains,
      y_label=f"{name} of {table.reference} minus the row's",
      **shared,
    ),
  ]
  return [chart for chart in charts if chart.curves]
