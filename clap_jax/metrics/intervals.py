"""How far a mean over a few repetitions can be trusted."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import scipy.stats


@dataclasses.dataclass(frozen=True)
class Interval:
  """A mean with its 95 % confidence interval; NaN ends where it has none."""

  mean: float
  low: float
  high: float

  @property
  def half(self) -> float:
    return self.high - self.mean


def mean_interval(values: Sequence[float]) -> Interval:
  """Student's t over independent runs; needs at least two of them."""
  values = np.asarray(values, np.float64)
  if len(values) < 2:
    raise ValueError(f"an interval needs at least 2 runs, got {len(values)}")
  error = values.std(ddof=1) / np.sqrt(len(values))
  half = float(scipy.stats.t.ppf(0.975, len(values) - 1) * error)
  mean = float(values.mean())
  return Interval(mean, mean - half, mean + half)


def estimate(values: Sequence[float]) -> Interval:
  """As `mean_interval`, for any number of values; of one, the mean alone."""
  if len(values) > 1:
    return mean_interval(values)
  mean = float(values[0]) if len(values) else math.nan
  return Interval(mean, math.nan, math.nan)
