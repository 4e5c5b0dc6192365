"""Defines the training state as one pytree."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from clap_jax.training import guard

# Folded into the seed's key for the initial parameters; steps fold in their own
# number, which is always smaller.
_INIT_STREAM = 2**32 - 1


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
  """The state after `step` steps, as saved in a checkpoint.

  The position in the data is `step` as well: batch n is consumed by step n + 1.
  """

  step: jax.Array  # int32 (); batches consumed, skipped updates included
  seed: jax.Array  # uint32 (); with `step` it determines every random draw
  params: Any
  opt_state: Any
  ema: Any  # moving average of params, or None
  num_skipped: jax.Array  # int32 (); updates that the guard skipped
  num_skipped_in_a_row: jax.Array  # int32 (); up to and including this step
  num_rollbacks: jax.Array  # int32 (); times the run went back a checkpoint
  recent_losses: jax.Array  # float32 (w,); of updates made, the last is newest
  recent_grad_norms: jax.Array  # float32 (w,); as above


def init_state(task, optimizer, *, seed: jax.Array, ema: bool) -> TrainState:
  """Makes the initial state; to be traced under jit.

  Args:
    optimizer: an object with Optax's `init`.
    seed: uint32 ().
    ema: whether to keep a moving average of the parameters.
  """
  rng = jax.random.fold_in(jax.random.key(seed), _INIT_STREAM)
  params = task.init(rng)
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    seed=jnp.asarray(seed, jnp.uint32),
    params=params,
    opt_state=optimizer.init(params),
    # A copy: two leaves of a donated state must not share one buffer.
    ema=jax.tree.map(jnp.copy, params) if ema else None,
    num_skipped=jnp.zeros((), jnp.int32),
    num_skipped_in_a_row=jnp.zeros((), jnp.int32),
    num_rollbacks=jnp.zeros((), jnp.int32),
    recent_losses=guard.no_history(),
    recent_grad_norms=guard.no_history(),
  )


def step_rng(state: TrainState) -> jax.Array:
  """Returns the random key of the step that follows `state`."""
  return jax.random.fold_in(jax.random.key(state.seed), state.step)
