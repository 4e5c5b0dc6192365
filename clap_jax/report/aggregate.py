"""Aggregates results over seeds and words the comparison."""

import dataclasses
import itertools
import math
import statistics
from collections.abc import Sequence

from clap_jax.report import content, metric_names

EXPECTED_ORDER = ("clap", "tac", "random")  # best first: the claim to check


@dataclasses.dataclass(frozen=True)
class Cell:
  """The values of one encoder and metric over seeds."""

  rows: tuple[content.ResultRow, ...] = ()

  @property
  def values(self) -> list[float]:
    """Finite values, in the order of the seeds."""
    return [row.value for row in self.rows if math.isfinite(row.value)]

  @property
  def mean(self) -> float:
    """Mean of the finite values; NaN if there is none."""
    return statistics.fmean(self.values) if self.values else math.nan

  @property
  def spread(self) -> float:
    """Sample standard deviation over seeds; NaN for fewer than two."""
    return statistics.stdev(self.values) if len(self.values) > 1 else math.nan


@dataclasses.dataclass(frozen=True)
class Table:
  """The results of one task on one split of one dataset."""

  task: str
  dataset: str
  split: str
  encoders: tuple[str, ...]
  metrics: tuple[str, ...]
  cells: dict[tuple[str, str], Cell]  # (encoder, metric); all pairs present

  @property
  def primary(self) -> str:
    """The headline metric."""
    return metric_names.primary(self.task, list(self.metrics))

  @property
  def title(self) -> str:
    """The task for people."""
    return metric_names.TASK_TITLES.get(self.task, self.task)

  def best(self, metric: str) -> frozenset[str]:
    """Encoders whose mean, as displayed, is the best of the column."""
    shown = {
      encoder: float(metric_names.format_value(mean))
      for encoder in self.encoders
      if math.isfinite(mean := self.cells[encoder, metric].mean)
    }
    if not shown:
      return frozenset()
    higher = metric_names.describe(metric).higher_is_better
    top = max(shown.values()) if higher else min(shown.values())
    return frozenset(name for name, value in shown.items() if value == top)


def tables(rows: Sequence[content.ResultRow]) -> list[Table]:
  """One table per task, dataset and split; tasks in the report's order.

  Raises:
    ValueError: two rows give different values for one and the same number.
  """
  groups: dict[tuple[str, str, str], list[content.ResultRow]] = {}
  for row in _without_repeats(rows):
    groups.setdefault((row.task, row.dataset, row.split), []).append(row)
  order = {task: index for index, task in enumerate(content.TASKS)}
  keys = sorted(groups, key=lambda key: order.get(key[0], len(order)))
  return [_table(*key, rows=groups[key]) for key in keys]


def _without_repeats(
  rows: Sequence[content.ResultRow],
) -> list[content.ResultRow]:
  kept: dict[tuple, content.ResultRow] = {}
  for row in rows:
    key = (row.task, row.dataset, row.split, row.encoder, row.seed, row.metric)
    known = kept.setdefault(key, row)
    both_missing = math.isnan(known.value) and math.isnan(row.value)
    if known.value != row.value and not both_missing:
      raise ValueError(
        f"Two values for {'/'.join(map(str, key))}: {known.value} and"
        f" {row.value}; expected one. Remove the outdated results."
      )
  return list(kept.values())


def _table(
  task: str, dataset: str, split: str, *, rows: list[content.ResultRow]
) -> Table:
  names = {row.encoder for row in rows}
  known = [name for name in content.ENCODERS if name in names]
  encoders = (*known, *sorted(names - set(known)))
  metrics = list(dict.fromkeys(row.metric for row in rows))
  first = metric_names.primary(task, metrics)
  metrics.sort(key=lambda metric: metric != first)  # stable: headline first
  cells = {}
  for encoder in encoders:
    for metric in metrics:
      own = [r for r in rows if (r.encoder, r.metric) == (encoder, metric)]
      own.sort(key=lambda row: row.seed)
      cells[encoder, metric] = Cell(tuple(own))
  return Table(task, dataset, split, encoders, tuple(metrics), cells)


def ordering(table: Table) -> str:
  """The measured order, best first: "clap 0.412 > tac 0.331 > random 0.102".

  Encoders whose means read alike at the printed precision are joined by "≈";
  one without a value is left out. Empty if nothing was measured.
  """
  ranked = _ranked(table)
  higher = metric_names.describe(table.primary).higher_is_better
  text, previous = "", ""
  for encoder in ranked:
    mean = table.cells[encoder, table.primary].mean
    value = metric_names.format_value(mean)
    if text:
      text += " ≈ " if value == previous else " > " if higher else " < "
    text += f"{encoder} {value}"
    previous = value
  return text


def _ranked(table: Table) -> list[str]:
  higher = metric_names.describe(table.primary).higher_is_better
  measured = {
    encoder: mean
    for encoder in table.encoders
    if math.isfinite(mean := table.cells[encoder, table.primary].mean)
  }
  sign = -1 if higher else 1
  return sorted(measured, key=lambda encoder: sign * measured[encoder])


def seed_note(table: Table) -> str:
  """Notes how reliable the order of the headline metric is."""
  ranked = _ranked(table)
  cells = {name: table.cells[name, table.primary] for name in ranked}
  counts = sorted({len(cell.values) for cell in cells.values()})
  if not counts:
    return "Nothing was measured."
  if counts[-1] < 2:
    return "One seed each, so the spread is unknown."
  span = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
  overlapping = []
  for better, worse in itertools.pairwise(ranked):
    first, second = cells[better].values, cells[worse].values
    if min(first) <= max(second) and min(second) <= max(first):
      overlapping.append(f"{better} and {worse}")
  if not overlapping:
    return f"{span} seeds; the ranges of neighbours do not overlap."
  return f"{span} seeds; the ranges of {', '.join(overlapping)} overlap."


def verdict(all_tables: Sequence[Table]) -> str:
  """Whether the expected order holds, metric by metric; only what is true.

  An order holds when every mean is strictly better than the next as printed.
  Tables that lack one of the encoders are judged on the others, in a sentence
  of their own. Empty when no table holds at least two of the encoders.
  """
  outcomes: dict[tuple[str, ...], tuple[list[str], list[str]]] = {}
  for table in all_tables:
    chain = [name for name in _ranked(table) if name in EXPECTED_ORDER]
    if len(chain) < 2:
      continue
    wanted = tuple(name for name in EXPECTED_ORDER if name in chain)
    shown = [
      metric_names.format_value(table.cells[name, table.primary].mean)
      for name in wanted
    ]
    strict = tuple(chain) == wanted and len(set(shown)) == len(shown)
    holds, fails = outcomes.setdefault(wanted, ([], []))
    (holds if strict else fails).append(_subject(table, all_tables))
  return " ".join(
    _sentence(names, holds, fails) for names, (holds, fails) in outcomes.items()
  )


def _subject(table: Table, all_tables: Sequence[Table]) -> str:
  metric = metric_names.describe(table.primary).text
  where = table.title.lower()
  if sum(other.task == table.task for other in all_tables) > 1:
    where += f", {table.dataset} {table.split}"
  return f"{metric} ({where})"


def _sentence(names: Sequence[str], holds: list[str], fails: list[str]) -> str:
  claim = f"The expected order, {' > '.join(names)},"
  if not fails:
    return f"{claim} holds on {_join(holds)}."
  if not holds:
    return f"{claim} does not hold on {_join(fails)}."
  return f"{claim} holds on {_join(holds)} but not on {_join(fails)}."


def _join(parts: list[str]) -> str:
  if len(parts) < 2:
    return "".join(parts)
  return f"{', '.join(parts[:-1])} and {parts[-1]}"
