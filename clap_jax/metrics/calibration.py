"""Calibrates absence logits to probabilities and decisions."""

import dataclasses

import numpy as np

from clap_jax.metrics import grounding

_NUM_BINS = 10
_MAX_ITERATIONS = 100


@dataclasses.dataclass(frozen=True)
class AbsenceCalibration:
  """Probability = sigmoid(slope * logit + offset); absent at the threshold.

  The probability is that of a query drawn half from the video and half from
  other videos, as on the split that it was fitted on.
  """

  slope: float
  offset: float
  threshold: float  # of the probability

  def probability(self, logits: np.ndarray) -> np.ndarray:
    """Calibrated probabilities of absence, in [0, 1]."""
    z = self.slope * np.asarray(logits, np.float64) + self.offset
    return 0.5 * (1 + np.tanh(z / 2))  # the sigmoid, without overflow

  def is_absent(self, logits: np.ndarray) -> np.ndarray:
    """The decision of each query."""
    return self.probability(logits) >= self.threshold


def fit_absence(
  logits: np.ndarray, *, is_absent: np.ndarray
) -> AbsenceCalibration:
  """Fits slope and offset by Platt's method, the threshold by the best F1.

  The targets are drawn a little towards one half, which keeps the slope finite
  where the two kinds are perfectly apart.

  Source: Platt, "Probabilistic outputs for support vector machines", 1999,
  section 2.2; Newton's method with step halving.

  Args:
    logits: (q,) of the selection split, never of the one that is reported.
    is_absent: bool (q,); both kinds must occur.

  Raises:
    ValueError: one kind is missing, or a logit is not finite.
  """
  x = np.asarray(logits, np.float64)
  is_absent = np.asarray(is_absent, bool)
  num_absent = int(is_absent.sum())
  num_present = len(x) - num_absent
  if not num_absent or not num_present or not np.isfinite(x).all():
    raise ValueError(
      "calibration needs finite logits of both kinds of queries, got "
      f"{num_present} present and {num_absent} absent ones; choose a "
      "selection split with at least two videos that differ"
    )
  target = np.where(
    is_absent, (num_absent + 1) / (num_absent + 2), 1 / (num_present + 2)
  )
  inputs = np.stack([x, np.ones_like(x)], axis=-1)
  weights = np.zeros(2)

  def loss(weights):
    z = inputs @ weights
    return np.sum(np.logaddexp(0, z) - target * z)

  for _ in range(_MAX_ITERATIONS):
    probability = 0.5 * (1 + np.tanh(inputs @ weights / 2))
    gradient = inputs.T @ (probability - target)
    curvature = probability * (1 - probability)
    hessian = inputs.T @ (curvature[:, None] * inputs) + 1e-9 * np.eye(2)
    step = np.linalg.solve(hessian, gradient)
    size, before = 1.0, loss(weights)
    while size > 1e-8 and loss(weights - size * step) > before:
      size /= 2
    weights = weights - size * step
    if np.abs(size * step).max() < 1e-10:
      break
  fitted = AbsenceCalibration(float(weights[0]), float(weights[1]), 0.5)
  threshold = grounding.best_absence_threshold(
    fitted.probability(x), is_absent=is_absent
  )
  return dataclasses.replace(fitted, threshold=threshold)


def calibration_error(
  probability: np.ndarray, *, happened: np.ndarray
) -> float:
  """Expected calibration error over ten equal bins of the probability.

  The mean over queries of |mean probability - share that happened| of the bin.
  """
  probability = np.asarray(probability, np.float64)
  happened = np.asarray(happened, np.float64)
  place = np.minimum((probability * _NUM_BINS).astype(int), _NUM_BINS - 1)
  difference = np.bincount(
    place, weights=probability - happened, minlength=_NUM_BINS
  )
  return float(np.abs(difference).sum() / len(probability))
