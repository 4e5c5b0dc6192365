"""Judges the pre-registered claims of a study."""

import dataclasses
import math
from collections.abc import Sequence

from clap_jax.metrics import intervals
from clap_jax.report import metric_names, result_table

ALPHA = 0.05  # for the whole family, after Holm's correction
HOLDS, DOES_NOT_HOLD = "holds", "does not hold"
TOO_FEW_SEEDS = "too few seeds"


@dataclasses.dataclass(frozen=True)
class Claim:
  """A claim that one row of a study beats another by one metric of a task."""

  better: str
  than: str
  task: str
  metric: str

  def __str__(self) -> str:
    name = metric_names.describe(self.metric).text
    return f"{self.better} > {self.than}, {self.task}, {name}"


@dataclasses.dataclass(frozen=True)
class Verdict:
  """The verdict on a claim from the seeds so far."""

  claim: Claim
  dataset: str
  differences: tuple[float, ...]  # better minus than, one per seed
  interval: intervals.Interval  # 95 % interval of their mean, not corrected
  p: float  # two-sided
  corrected_p: float
  verdict: str

  def as_dict(self) -> dict:
    """Returns the verdict as JSON values, a line of claims.csv."""
    return {
      "dataset": self.dataset,
      **dataclasses.asdict(self.claim),
      "seeds": len(self.differences),
      "effect": _finite(self.interval.mean),
      "low_95": _finite(self.interval.low),
      "high_95": _finite(self.interval.high),
      "p": self.p,
      "holm_p": self.corrected_p,
      "verdict": self.verdict,
    }


def csv_text(verdicts: Sequence[Verdict]) -> str:
  """Formats the verdicts as CSV."""
  return result_table.csv_text([verdict.as_dict() for verdict in verdicts])


def judge(
  table: result_table.ResultTable,
  claims: Sequence[Claim],
  *,
  min_seeds: int,
) -> list[Verdict]:
  """Judges all claims, as one family per dataset.

  A claim with too few seeds stays in the family with p = 1, so that the
  correction counts all stated claims.
  """
  verdicts = []
  for dataset in table.datasets:
    differences = [_differences(table, dataset, claim) for claim in claims]
    p_values = [
      intervals.p_value(d) if len(d) >= min_seeds else 1.0 for d in differences
    ]
    verdicts += [
      Verdict(
        claim,
        dataset,
        tuple(found),
        intervals.estimate(found),
        p,
        corrected,
        _verdict(found, corrected, min_seeds),
      )
      for claim, found, p, corrected in zip(
        claims, differences, p_values, intervals.holm(p_values), strict=True
      )
    ]
  return verdicts


def _differences(table, dataset: str, claim: Claim) -> list[float]:
  lower_is_better = not metric_names.describe(claim.metric).higher_is_better
  place, sign = (dataset, claim.task, claim.metric), 1 - 2 * lower_is_better
  better, than = (
    table.values.get((place, row), {}) for row in (claim.better, claim.than)
  )
  return [
    sign * (better[seed] - than[seed]) for seed in sorted(better.keys() & than)
  ]


def _verdict(differences, corrected_p: float, min_seeds: int) -> str:
  if len(differences) < min_seeds:
    return TOO_FEW_SEEDS
  is_better = sum(differences) > 0
  return HOLDS if is_better and corrected_p < ALPHA else DOES_NOT_HOLD


def _finite(value: float) -> float | None:
  return value if math.isfinite(value) else None
