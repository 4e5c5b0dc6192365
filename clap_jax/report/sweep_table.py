"""Collects the runs of a sweep and their results in one table."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from clap_jax.report import content, result_table

DONE, STOPPED, FAILED, PRUNED = "done", "stopped", "failed", "pruned"


@dataclasses.dataclass(frozen=True)
class Entry:
  """One run of a sweep."""

  name: str
  outcome: str  # DONE, STOPPED, FAILED or PRUNED
  reason: str  # of a failure
  overrides: Mapping[str, Any]  # config key -> value
  metrics: Mapping[str, float | None]  # task/split/metric -> value
  curves: Mapping[str, content.Curve]  # by the key in metrics.jsonl


@dataclasses.dataclass(frozen=True)
class SweepTable:
  """All runs, in their planned order."""

  entries: tuple[Entry, ...]
  keys: tuple[str, ...]  # config keys that any run overrides
  metrics: tuple[str, ...]  # metrics of any run
  metric: str | None  # metric that ranks the runs; None: no metrics yet

  @classmethod
  def of(cls, entries: Sequence[Entry], *, metric: str | None) -> "SweepTable":
    """Collects the columns.

    Args:
      metric: task/split/metric or its last part; None: the first average, or
        the first metric.

    Raises:
      ValueError: the runs have metrics, but not this one.
    """
    keys = dict.fromkeys(key for entry in entries for key in entry.overrides)
    metrics = tuple(
      dict.fromkeys(name for entry in entries for name in entry.metrics)
    )
    return cls(tuple(entries), tuple(keys), metrics, _chosen(metrics, metric))

  def value(self, entry: Entry) -> float:
    """Returns the value that ranks the entry, or NaN."""
    value = entry.metrics.get(self.metric) if self.metric else None
    return math.nan if value is None else float(value)

  @property
  def ranked(self) -> tuple[Entry, ...]:
    """Returns the entries, best first; those without a value last."""

    def rank(entry):
      value = self.value(entry)
      return (math.isnan(value), -value if math.isfinite(value) else 0.0)

    return tuple(sorted(self.entries, key=rank))

  @property
  def unfinished(self) -> tuple[Entry, ...]:
    return tuple(e for e in self.entries if e.outcome != DONE)


def _chosen(metrics: Sequence[str], wanted: str | None) -> str | None:
  if not metrics:
    return None
  if wanted is None:
    averages = [m for m in metrics if m.rpartition("/")[2].startswith("aver")]
    return (averages or list(metrics))[0]
  for name in metrics:
    if wanted in (name, name.rpartition("/")[2]):
      return name
  raise ValueError(
    f"--metric: no run has {wanted!r}; choose from {', '.join(metrics)}."
  )


def csv_text(table: SweepTable) -> str:
  """Formats one line per run: name, outcome, overrides, metrics, reason."""
  return result_table.csv_text(
    [
      {"run": entry.name, "outcome": entry.outcome}
      | {key: entry.overrides.get(key) for key in table.keys}
      | {name: entry.metrics.get(name) for name in table.metrics}
      | {"reason": entry.reason}
      for entry in table.entries
    ]
  )
