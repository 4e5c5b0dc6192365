"""Formats results tables for the page."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from clap_jax.report import aggregate, content, metric_names


@dataclasses.dataclass(frozen=True)
class CellView:
  """A mean with its spread and a bar, as a share of the best of its column."""

  value: str
  spread: str
  title: str
  bar_percent: float
  best: bool


@dataclasses.dataclass(frozen=True)
class RunView:
  """A single number with the facts of its card that others do not share."""

  encoder: str
  metric: str
  seed: int
  value: str
  extra: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class DotRow:
  """An encoder in the headline's plot; positions in percent of the axis."""

  encoder: str
  value: str
  spread: str
  mean_percent: float | None
  dot_percents: tuple[float, ...]
  best: bool


@dataclasses.dataclass(frozen=True)
class Headline:
  """The headline of a table: its text and its chart."""

  identifier: str
  task: str
  question: str
  metric: str
  meaning: str
  where: str
  ordering: str
  seed_note: str
  rows: tuple[DotRow, ...]
  axis_end: str


@dataclasses.dataclass(frozen=True)
class TableView:
  """A table, ready to draw."""

  identifier: str
  title: str
  question: str
  dataset: str
  split: str
  columns: tuple[metric_names.MetricName, ...]
  rows: tuple[tuple[str, tuple[CellView, ...]], ...]
  headline: Headline
  common_card: tuple[tuple[str, str], ...]
  extra_names: tuple[str, ...]
  runs: tuple[RunView, ...]


def view(table: aggregate.Table, *, identifier: str) -> TableView:
  """Returns the page's view of a table."""
  common, extra_names, runs = _cards(table)
  best = {metric: table.best(metric) for metric in table.metrics}
  return TableView(
    identifier=identifier,
    title=table.title,
    question=metric_names.TASK_QUESTIONS.get(table.task, ""),
    dataset=table.dataset,
    split=table.split,
    columns=tuple(metric_names.describe(m) for m in table.metrics),
    rows=tuple(
      (
        encoder,
        tuple(
          _cell(table, encoder, metric, best=encoder in best[metric])
          for metric in table.metrics
        ),
      )
      for encoder in table.encoders
    ),
    headline=_headline(table, identifier=identifier),
    common_card=common,
    extra_names=extra_names,
    runs=runs,
  )


def _cell(
  table: aggregate.Table, encoder: str, metric: str, *, best: bool
) -> CellView:
  cell = table.cells[encoder, metric]
  means = [table.cells[name, metric].mean for name in table.encoders]
  longest = max((m for m in means if math.isfinite(m)), default=0.0)
  measured = longest > 0 and math.isfinite(cell.mean)
  share = cell.mean / longest if measured else 0.0
  seeds = ", ".join(
    f"seed {row.seed}: {metric_names.format_value(row.value)}"
    for row in cell.rows
  )
  return CellView(
    value=metric_names.format_value(cell.mean),
    spread=_spread(cell),
    title=seeds or "not measured",
    bar_percent=round(100 * max(share, 0.0), 1),
    best=best,
  )


def _spread(cell: aggregate.Cell) -> str:
  spread = cell.spread
  return metric_names.format_value(spread) if math.isfinite(spread) else ""


def _headline(table: aggregate.Table, *, identifier: str) -> Headline:
  metric = table.primary
  name = metric_names.describe(metric)
  cells = [table.cells[encoder, metric] for encoder in table.encoders]
  end = _axis_end(max((v for c in cells for v in c.values), default=1.0))
  best = table.best(metric)
  rows = tuple(
    DotRow(
      encoder=encoder,
      value=metric_names.format_value(cell.mean),
      spread=_spread(cell),
      mean_percent=_percent(cell.mean, end) if cell.values else None,
      dot_percents=tuple(_percent(value, end) for value in cell.values),
      best=encoder in best,
    )
    for encoder, cell in zip(table.encoders, cells, strict=True)
  )
  return Headline(
    identifier=identifier,
    task=table.title,
    question=metric_names.TASK_QUESTIONS.get(table.task, ""),
    metric=name.text,
    meaning=name.meaning,
    where=f"{table.dataset}, {table.split}",
    ordering=aggregate.ordering(table),
    seed_note=aggregate.seed_note(table),
    rows=rows,
    axis_end=f"{end:g}",
  )


def _axis_end(top: float) -> float:
  """A round number not below `top`."""
  if top <= 0:
    return 1.0
  magnitude = 10.0 ** math.floor(math.log10(top))
  for factor in (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10):
    if factor * magnitude >= top:
      return factor * magnitude
  return 10 * magnitude


def _percent(value: float, end: float) -> float:
  return round(100 * min(max(value / end, 0.0), 1.0), 2)


def _cards(
  table: aggregate.Table,
) -> tuple[tuple[tuple[str, str], ...], tuple[str, ...], tuple[RunView, ...]]:
  """Splits cards into common facts and every number's own."""
  rows = [
    row
    for metric in table.metrics
    for encoder in table.encoders
    for row in table.cells[encoder, metric].rows
  ]
  cards = [_flat(row) for row in rows]
  keys = list(dict.fromkeys(key for card in cards for key in card))
  common, differing = [], []
  for key in keys:
    values = {card.get(key, "–") for card in cards}
    if len(values) == 1:
      common.append((key, values.pop()))
    else:
      differing.append(key)
  runs = tuple(
    RunView(
      encoder=row.encoder,
      metric=metric_names.describe(row.metric).text,
      seed=row.seed,
      value=metric_names.format_value(row.value),
      extra=tuple(card.get(key, "–") for key in differing),
    )
    for row, card in zip(rows, cards, strict=True)
  )
  return tuple(common), tuple(differing), runs


def _flat(row: content.ResultRow) -> dict[str, str]:
  """Returns the card as text, without the columns of the table."""
  told = ("encoder", "seed", "metric", "value")
  own = {"encoder": row.encoder, "seed": row.seed, "metric": row.metric}
  return {
    str(key): _text(value)
    for key, value in row.card.items()
    if key not in told or own.get(key, row.value) != value
  }


def _text(value: Any) -> str:
  if isinstance(value, str):
    return value
  if value is None:
    return "none"
  if isinstance(value, bool):
    return "yes" if value else "no"
  if isinstance(value, Mapping):
    return ", ".join(f"{key}: {_text(item)}" for key, item in value.items())
  if isinstance(value, Sequence):
    return ", ".join(_text(item) for item in value) or "none"
  return json.dumps(value, default=str)
