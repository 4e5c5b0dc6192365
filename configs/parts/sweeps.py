"""Builds the overrides of a config file's `sweep()`."""

import itertools


def grid(axes: dict):
  """Every combination of the axes' values, as overrides for `sweep()`.

  Args:
    axes: key -> values, as in {"optimizer.learning_rate": (1e-3, 1e-4)}.
  """
  for values in itertools.product(*axes.values()):
    yield dict(zip(axes, values, strict=True))


def together(axes: dict):
  """The first values of all axes, the second ones, and so on.

  Raises:
    ValueError: if the axes differ in length.
  """
  lengths = {key: len(values) for key, values in axes.items()}
  if len(set(lengths.values())) > 1:
    raise ValueError(f"Axes that go together differ in length: {lengths}.")
  for values in zip(*axes.values(), strict=True):
    yield dict(zip(axes, values, strict=True))
