"""Computes means, 95 % intervals and paired differences over seeds."""

import csv
import dataclasses
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from clap_jax.metrics import intervals
from clap_jax.report import content, metric_names

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")

Place = tuple[str, str, str]  # dataset, task, metric
# Columns of results.csv, from which all other tables can be computed. Programs
# that read it by position rely on the seven before head_seed, which is empty
# for tasks without a trained head.
RAW_COLUMNS = (
  "dataset", "split", "encoder", "seed", "task", "metric", "value", "head_seed"
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Cell:
  """One row's values of one metric, and their difference to the reference."""

  values: Mapping[int, float]  # seed -> value, finite
  estimate: intervals.Interval
  # Reference minus this row on their common seeds; its mean is NaN without
  # common seeds and for the reference itself.
  difference: intervals.Interval
  num_pairs: int

  @property
  def is_clear(self) -> bool:
    """Returns True if the interval of the difference excludes 0."""
    low, high = self.difference.low, self.difference.high
    return bool(low > 0 or high < 0)


@dataclasses.dataclass(frozen=True)
class ResultTable:
  """All measurements so far."""

  titles: Mapping[str, str]  # row -> description, in the order of the rows
  reference: str  # row that the others are compared with; "": none
  values: Mapping[tuple[Place, str], Mapping[int, float]]  # (place, row)

  @classmethod
  def of(
    cls,
    rows: Sequence[Mapping[str, Any]],
    *,
    titles: Mapping[str, str],
    reference: str,
  ) -> "ResultTable":
    """Builds a table from rows of results.json; runs may be missing.

    The value of a seed is the mean over the heads that were trained on its
    encoder; a seed that lacks one of a task's heads, or has a value that is
    not finite, is left out.

    Raises:
      ValueError: two rows hold the same measurement.
    """
    single: dict[tuple[Place, str], dict[int, dict[Any, float]]] = {}
    heads: dict[tuple[str, str], set] = {}
    for row in rows:
      place = (row["dataset"], row["task"], row["metric"])
      head = row.get("head_seed")
      heads.setdefault(place[:2], set()).add(head)
      seeds = single.setdefault((place, row["encoder"]), {})
      known = seeds.setdefault(row["seed"], {})
      if head in known:
        raise ValueError(
          f"{row['encoder']}, seed {row['seed']}, head {head} has two values "
          f"of {place}."
        )
      value = row["value"]
      known[head] = math.nan if value is None else float(value)
    values = {
      (place, encoder): _means(seeds, num_heads=len(heads[place[:2]]))
      for (place, encoder), seeds in single.items()
    }
    return cls(dict(titles), reference, values)

  @property
  def rows(self) -> tuple[str, ...]:
    return tuple(self.titles)

  @property
  def places(self) -> tuple[Place, ...]:
    """Returns the measured places, in the order of tasks on all pages."""
    order = {task: index for index, task in enumerate(content.TASKS)}
    found = dict.fromkeys(place for place, _ in self.values)
    return tuple(sorted(found, key=lambda p: order.get(p[1], len(order))))

  @property
  def tasks(self) -> tuple[str, ...]:
    return tuple(dict.fromkeys(task for _, task, _ in self.places))

  @property
  def datasets(self) -> tuple[str, ...]:
    return tuple(dict.fromkeys(dataset for dataset, _, _ in self.places))

  def metrics(self, task: str, dataset: str = "") -> tuple[str, ...]:
    """Lists the metrics of a task, headline first, without counts.

    Args:
      task: task of the metrics.
      dataset: dataset of the metrics; "": any.
    """
    names = dict.fromkeys(
      m for d, t, m in self.places if t == task and dataset in ("", d)
    )
    names = [name for name in names if not name.endswith("num_queries")]
    first = metric_names.primary(task, names)
    return tuple(sorted(names, key=lambda name: name != first))

  def primary(self, task: str, dataset: str = "") -> str:
    return self.metrics(task, dataset)[0]

  def cell(self, dataset: str, task: str, metric: str, *, row: str) -> Cell:
    place = (dataset, task, metric)
    own = self.values.get((place, row), {})
    other = self.values.get((place, self.reference), {})
    pairs = [
      other[seed] - own[seed]
      for seed in sorted(own)
      if seed in other and row != self.reference
    ]
    return Cell(
      values=own,
      estimate=intervals.estimate([own[seed] for seed in sorted(own)]),
      difference=intervals.estimate(pairs),
      num_pairs=len(pairs),
    )

  def summary(self) -> list[dict]:
    """Returns one entry per place and row, as JSON values."""
    entries = []
    for dataset, task, metric in self.places:
      for row in self.rows:
        cell = self.cell(dataset, task, metric, row=row)
        if cell.values:
          entries.append(_entry(dataset, task, metric, row, cell))
    return entries

  def csv(self) -> str:
    """Formats `summary` as CSV."""
    return csv_text(self.summary())


def _means(
  seeds: Mapping[int, Mapping[Any, float]], *, num_heads: int
) -> dict[int, float]:
  """Returns seed -> mean over its heads, if all are present and finite."""
  return {
    seed: sum(of_heads.values()) / num_heads
    for seed, of_heads in seeds.items()
    if len(of_heads) == num_heads
    and all(math.isfinite(value) for value in of_heads.values())
  }


def _entry(dataset, task, metric, row, cell: Cell) -> dict:
  return {
    "dataset": dataset,
    "task": task,
    "metric": metric,
    "row": row,
    "status": "exploratory",  # the stated claims are in claims.csv
    "seeds": len(cell.values),
    "mean": cell.estimate.mean,
    "low_95": _finite(cell.estimate.low),
    "high_95": _finite(cell.estimate.high),
    "pairs": cell.num_pairs,
    "reference_minus_row": _finite(cell.difference.mean),
    "difference_low_95": _finite(cell.difference.low),
    "difference_high_95": _finite(cell.difference.high),
  }


def _finite(value: float) -> float | None:
  return value if math.isfinite(value) else None


def rows_csv(rows: Sequence[Mapping[str, Any]]) -> str:
  """Formats every number of results.json as CSV, without its card."""
  return csv_text([{key: row[key] for key in RAW_COLUMNS} for row in rows])


def csv_text(
  entries: Sequence[Mapping[str, Any]], columns: Sequence[str] = ()
) -> str:
  """Formats a line per entry; `columns` default to the first one's keys."""
  buffer = io.StringIO()
  columns = columns or list(entries[0] if entries else ())
  if columns:
    writer = csv.DictWriter(
      buffer, columns, lineterminator="\n", extrasaction="ignore"
    )
    writer.writeheader()
    writer.writerows(
      {key: harmless(value) for key, value in entry.items()}
      for entry in entries
    )
  return buffer.getvalue()


def harmless(value: Any) -> Any:
  """Escapes a text that spreadsheets would compute; numbers stay numbers."""
  if not isinstance(value, str):
    return value
  # The csv module quotes line feeds, but no lone carriage return.
  text = value.replace("\r\n", "\n").replace("\r", "\n")
  return f"'{text}" if value.startswith(_FORMULA_STARTS) else text
