"""Confidence intervals and tests of means over a few repetitions."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.stats


@dataclasses.dataclass(frozen=True)
class Interval:
  """A mean with its 95 % confidence interval; NaN ends where it has none."""

  mean: float
  low: float
  high: float


def mean_interval(values: Sequence[float]) -> Interval:
  """Student's t over independent runs; needs at least two of them."""
  runs = np.asarray(values, np.float64)
  if len(runs) < 2:
    raise ValueError(f"an interval needs at least 2 runs, got {len(runs)}")
  error = runs.std(ddof=1) / np.sqrt(len(runs))
  half = float(scipy.stats.t.ppf(0.975, len(runs) - 1) * error)
  mean = float(runs.mean())
  return Interval(mean, mean - half, mean + half)


def estimate(values: Sequence[float]) -> Interval:
  """As `mean_interval`, for any number of values; of one, the mean alone."""
  if len(values) > 1:
    return mean_interval(values)
  mean = float(values[0]) if len(values) else math.nan
  return Interval(mean, math.nan, math.nan)


def p_value(differences: Sequence[float]) -> float:
  """Two-sided p of Student's t test that the mean of differences is 0.

  1.0 where there is no test: fewer than two differences, or all of them 0.
  """
  values = np.asarray(differences, np.float64)
  if len(values) < 2 or not values.any():
    return 1.0
  if not np.ptp(values):  # the same difference each time: no spread at all
    return 0.0
  found: Any = scipy.stats.ttest_1samp(values, 0.0)
  return float(found.pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
  """Holm's step-down correction of the p values of one family of tests.

  Rejecting where the corrected value is below alpha keeps the probability of
  one or more false rejections in the family below alpha, whatever the
  dependence between the tests.
  """
  corrected, largest = [0.0] * len(p_values), 0.0
  order = sorted(range(len(p_values)), key=lambda index: p_values[index])
  for rank, index in enumerate(order):
    scaled = min(1.0, (len(p_values) - rank) * p_values[index])
    largest = max(largest, scaled)
    corrected[index] = largest
  return corrected
