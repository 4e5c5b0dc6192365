"""Defines the interface between the training engine and a task."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax

from clap_jax.training import paths

Params = Any  # a pytree of float arrays
Batch = Any  # a pytree of arrays (b, ...), the same b in all of them

# Top-level entries of the parameters that a forward pass renews: the running
# averages of batch normalisation, and those that a loss is divided by. They are
# saved, restored, sharded and averaged like parameters, but have no gradient,
# no moments and no decay.
TRACKED_COLLECTIONS = ("batch_stats", "loss_stats")


class Tracked(NamedTuple):
  """Metrics of a loss with the collections its forward pass updated."""

  metrics: Mapping[str, jax.Array]
  collections: Mapping[str, Any]  # entries of TRACKED_COLLECTIONS


class Task(Protocol):
  """A stateless training task.

  A task has no access to the optimizer, the step counter or the writer. Its
  methods are traced under jit, with the run's mesh as the ambient one; arrays
  are global, so a mean over the batch is a mean over all devices.
  """

  def init(self, rng: jax.Array) -> Params:
    """Initializes parameters, as a function of the key alone."""

  def loss(
    self, params: Params, batch: Batch, rng: jax.Array
  ) -> tuple[jax.Array, Mapping[str, jax.Array] | Tracked]:
    """Computes the loss () to minimize and scalars to log by name.

    A task whose forward pass updates tracked collections returns both as a
    `Tracked`; a skipped step discards the update.
    """
    ...

  def predict(self, params: Params, batch: Batch) -> Any:
    """Returns a pytree of arrays (b, ...), one row per row of the batch."""


@runtime_checkable
class SlicedTask(Task, Protocol):
  """A task with bit-identical training on any number of devices."""

  def sliced(self) -> Any:
    """Returns its loss in two parts, a deterministic.Sliced, or None."""
    ...


def is_tracked(name: str) -> bool:
  """Returns True if a parameter's path is in a tracked collection."""
  return name.split("/", maxsplit=1)[0] in TRACKED_COLLECTIONS


def num_parameters(params: Params) -> int:
  """Counts trained parameters, excluding tracked collections."""
  return sum(
    leaf.size
    for name, leaf in paths.flatten(params).items()
    if not is_tracked(name)
  )


def split_tracked(
  extra: Mapping[str, jax.Array] | Tracked,
) -> tuple[Mapping[str, jax.Array], Mapping[str, Any]]:
  """Splits a loss's auxiliary output into (metrics, collections).

  Raises:
    ValueError: the task updates other than tracked collections.
  """
  if not isinstance(extra, Tracked):
    return extra, {}
  unknown = sorted(set(extra.collections) - set(TRACKED_COLLECTIONS))
  if unknown:
    raise ValueError(
      f"The task updates {unknown}; only {TRACKED_COLLECTIONS} are renewed "
      "without a gradient."
    )
  return extra.metrics, extra.collections
