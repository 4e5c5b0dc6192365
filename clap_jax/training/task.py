"""The interface between the training engine and a task."""

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
  """Metrics of a loss together with what its forward pass has renewed."""

  metrics: Mapping[str, jax.Array]
  collections: Mapping[str, Any]  # entries of TRACKED_COLLECTIONS


class Task(Protocol):
  """A stateless description of what is learned.

  A task never sees the optimizer, the step counter or the writer. Its methods
  are traced under jit, with the run's mesh as the ambient one; arrays are
  global, so a mean over the batch is a mean over all devices.
  """

  def init(self, rng: jax.Array) -> Params:
    """Fresh parameters, a function of the key alone."""

  def loss(
    self, params: Params, batch: Batch, rng: jax.Array
  ) -> tuple[jax.Array, Mapping[str, jax.Array] | Tracked]:
    """The loss () to descend and further scalars to log by name.

    A task whose forward pass renews tracked collections returns both as a
    `Tracked`; a step that is skipped does not take them over.
    """
    ...

  def predict(self, params: Params, batch: Batch) -> Any:
    """A pytree of arrays (b, ...), one row per row of the batch."""


@runtime_checkable
class SlicedTask(Task, Protocol):
  """A task that can train with the same bits on any number of devices."""

  def sliced(self) -> Any:
    """Returns its loss in two parts, a deterministic.Sliced, or None."""
    ...


def is_tracked(name: str) -> bool:
  """Whether a parameter's path lies in a tracked collection."""
  return name.split("/", maxsplit=1)[0] in TRACKED_COLLECTIONS


def num_parameters(params: Params) -> int:
  """Numbers that are learned: those of tracked collections do not count."""
  return sum(
    leaf.size
    for name, leaf in paths.flatten(params).items()
    if not is_tracked(name)
  )


def split_tracked(
  extra: Mapping[str, jax.Array] | Tracked,
) -> tuple[Mapping[str, jax.Array], Mapping[str, Any]]:
  """(metrics, renewed collections) of what a loss returned beside its value.

  Raises:
    ValueError: if the task renews what is not a tracked collection.
  """
  if not isinstance(extra, Tracked):
    return extra, {}
  unknown = sorted(set(extra.collections) - set(TRACKED_COLLECTIONS))
  if unknown:
    raise ValueError(
      f"The task renews {unknown}; only {TRACKED_COLLECTIONS} are renewed "
      "without a gradient."
    )
  return extra.metrics, extra.collections
