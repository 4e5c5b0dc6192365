"""Computes temporal intersection over union, as public evaluators do.

All functions broadcast; segments are [start, end) in any unit. They share no
code with `clap_jax.ops`; a test checks that the two agree.
"""

import numpy as np


def intersection(first: np.ndarray, second: np.ndarray) -> np.ndarray:
  """Computes the overlap length of segments (..., 2); 0 if disjoint."""
  start = np.maximum(first[..., 0], second[..., 0])
  end = np.minimum(first[..., 1], second[..., 1])
  return np.maximum(end - start, 0.0)


def iou(
  predicted: np.ndarray, truth: np.ndarray, *, empty_pair: float
) -> np.ndarray:
  """Computes the IoU of segments (..., 2), in float64.

  The union is the sum of the lengths minus the intersection, in the order of
  operations of the ActivityNet evaluators. Two segments of zero length have
  the value `empty_pair`.
  """
  shared = intersection(predicted, truth)
  union = (
    (truth[..., 1] - truth[..., 0])
    + (predicted[..., 1] - predicted[..., 0])
    - shared
  )
  has_union = union != 0
  return np.where(has_union, shared / np.where(has_union, union, 1), empty_pair)


def hull_iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
  """Computes intersection over hull of two segments; 0 if it is empty.

  Equals the IoU; the form of the grounding and THUMOS14 evaluators.
  """
  hull = np.maximum(first[..., 1], second[..., 1]) - np.minimum(
    first[..., 0], second[..., 0]
  )
  shared = intersection(first, second)
  return np.where(hull > 0, shared / np.where(hull > 0, hull, 1), 0.0)
