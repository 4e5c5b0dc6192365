"""Computes confidence intervals and tests of means over a few runs."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.stats


@dataclasses.dataclass(frozen=True)
class Interval:
  """A mean with its 95 % confidence interval; NaN ends if it has none."""

  mean: float
  low: float
  high: float


def mean_interval(values: Sequence[float]) -> Interval:
  """Computes Student's t interval over at least two independent runs."""
  runs = np.asarray(values, np.float64)
  if len(runs) < 2:
    raise ValueError(f"an interval needs at least 2 runs, got {len(runs)}")
  error = runs.std(ddof=1) / np.sqrt(len(runs))
  half = float(scipy.stats.t.ppf(0.975, len(runs) - 1) * error)
  mean = float(runs.mean())
  return Interval(mean, mean - half, mean + half)


def estimate(values: Sequence[float]) -> Interval:
  """Computes `mean_interval`, or the mean alone of fewer than two values."""
  if len(values) > 1:
    return mean_interval(values)
  mean = float(values[0]) if len(values) else math.nan
  return Interval(mean, math.nan, math.nan)


def p_value(differences: Sequence[float]) -> float:
  """Returns the two-sided p of Student's t test for a mean of 0.

  p is 1.0 for fewer than two differences, or if all are 0.
  """
  values = np.asarray(differences, np.float64)
  if len(values) < 2 or not values.any():
    return 1.0
  if not np.ptp(values):  # equal differences have no variance
    return 0.0
  found: Any = scipy.stats.ttest_1samp(values, 0.0)
  return float(found.pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
  """Corrects the p values of one family of tests by Holm's step-down method.

  Rejecting corrected values below alpha keeps the probability of any false
  rejection in the family below alpha, for any dependence between the tests.
  """
  corrected, largest = [0.0] * len(p_values), 0.0
  order = sorted(range(len(p_values)), key=lambda index: p_values[index])
  for rank, index in enumerate(order):
    scaled = min(1.0, (len(p_values) - rank) * p_values[index])
    largest = max(largest, scaled)
    corrected[index] = largest
  return corrected
