"""What the training engine asks of a task, and nothing more."""

from collections.abc import Mapping
from typing import Any, Protocol

import jax

Params = Any  # a pytree of float arrays
Batch = Any  # a pytree of arrays (b, ...), the same b in all of them


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
  ) -> tuple[jax.Array, Mapping[str, jax.Array]]:
    """The loss () to descend and further scalars to log by name."""

  def predict(self, params: Params, batch: Batch) -> Any:
    """A pytree of arrays (b, ...), one row per row of the batch."""
