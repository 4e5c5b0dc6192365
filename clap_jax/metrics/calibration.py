"""Calibrates absence logits to probabilities and decisions."""

import dataclasses

import numpy as np

from clap_jax.metrics import grounding

_NUM_BINS = 10
_MAX_ITERATIONS = 100


@dataclasses.dataclass(frozen=True)
class AbsenceCalibration:
  """Maps absence logits to probabilities and decisions.

  probability = sigmoid(slope * logit + offset), for queries of which half
  belong to other videos, as on the split of the fit. A query is absent if its
  probability is at least the threshold.
  """

  slope: float
  offset: float
  threshold: float

  def probability(self, logits: np.ndarray) -> np.ndarray:
    """Returns calibrated probabilities of absence, in [0, 1]."""
    z = self.slope * np.asarray(logits, np.float64) + self.offset
    return 0.5 * (1 + np.tanh(z / 2))  # the sigmoid, without overflow

  def is_absent(self, logits: np.ndarray) -> np.ndarray:
    """Returns True for each query that is predicted to be absent."""
    return self.probability(logits) >= self.threshold


def fit_absence(
  logits: np.ndarray, *, is_absent: np.ndarray
) -> AbsenceCalibration:
  """Fits slope and offset by Platt's method and the threshold by the best F1.

  The targets are shifted slightly towards one half, which keeps the slope
  finite if the two kinds are perfectly separable.

  Source: Platt, "Probabilistic outputs for support vector machines", 1999,
  section 2.2; Newton's method with step halving.

  Args:
    logits: (q,) logits on the selection split, never on the reported one.
    is_absent: bool (q,); must contain both values.

  Raises:
    ValueError: one kind is missing, or a logit is not finite.
  """
  x = np.asarray(logits, np.float64)
  is_absent = np.asarray(is_absent, bool)
  num_absent = int(is_absent.sum())
  num_present = len(x) - num_absent
  if not num_absent or not num_present or not np.isfinite(x).all():
    raise ValueError(
      "calibration needs finite logits of present and absent queries, got "
      f"{num_present} present and {num_absent} absent; choose a selection "
      "split with at least two different videos"
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
  """Computes the expected calibration error over ten equal bins.

  This is the mean over queries of |mean probability - share of `happened`| in
  the query's bin.
  """
  probability = np.asarray(probability, np.float64)
  happened = np.asarray(happened, np.float64)
  place = np.minimum((probability * _NUM_BINS).astype(int), _NUM_BINS - 1)
  difference = np.bincount(
    place, weights=probability - happened, minlength=_NUM_BINS
  )
  return float(np.abs(difference).sum() / len(probability))
