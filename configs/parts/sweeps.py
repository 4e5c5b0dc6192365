"""Builds the overrides of a config's `sweep()`."""

import itertools


def grid(axes: dict):
  """Returns every combination of the axes' values as overrides.

  Args:
    axes: key -> values, as in {"optimizer.learning_rate": (1e-3, 1e-4)}.
  """
  for values in itertools.product(*axes.values()):
    yield dict(zip(axes, values, strict=True))


def together(axes: dict):
  """Returns the first values of all axes, the second values, and so on.

  Raises:
    ValueError: the axes differ in length.
  """
  lengths = {key: len(values) for key, values in axes.items()}
  if len(set(lengths.values())) > 1:
    raise ValueError(f"The axes differ in length: {lengths}.")
  for values in zip(*axes.values(), strict=True):
    yield dict(zip(axes, values, strict=True))
