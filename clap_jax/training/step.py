"""Defines the train step: gradient, guard, update, moving average."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from clap_jax.training import guard
from clap_jax.training import optimizer as optimizer_lib
from clap_jax.training import state as state_lib
from clap_jax.training import task as task_lib

TrainState = state_lib.TrainState
StepFunction = Callable[[TrainState, Any], tuple[TrainState, Mapping]]


def make_train_step(
  task: task_lib.Task,
  optimizer: optimizer_lib.Optimizer,
  *,
  ema_decay: float | None = None,
  outlier_deviations: float | None = None,
  state_shardings: Any = None,
) -> StepFunction:
  """Makes a jitted (state, batch) -> (state, metrics); donates the state.

  Metrics are scalars on the device: `loss`, `grad_norm` (of the trainable
  parameters, before clipping), `learning_rate`, `guard/skipped`,
  `guard/skipped_in_a_row`, `guard/rollbacks`, and those of the task.

  A step whose loss or gradient norm is not finite, or an outlier, leaves
  parameters, optimizer and moving average bit-identical; it is counted and the
  step number increases, so that the next step gets the next batch.

  Args:
    optimizer: result of `make_optimizer` for the same parameters.
    ema_decay: decay of the moving average of parameters; None for none.
    outlier_deviations: see guard.is_outlier; None disables this guard.
    state_shardings: TrainState of shardings of the result; None leaves them to
      the compiler.
  """

  def train_step(state: TrainState, batch):
    rng = state_lib.step_rng(state)

    def loss_of(params):
      params = optimizer.stop_frozen(params)
      return task.loss(params, batch, rng)

    (loss, extra), grads = jax.value_and_grad(loss_of, has_aux=True)(
      state.params
    )
    return apply_gradient(
      state,
      loss,
      extra,
      grads,
      optimizer=optimizer,
      ema_decay=ema_decay,
      outlier_deviations=outlier_deviations,
    )

  return jax.jit(
    train_step,
    donate_argnums=0,
    out_shardings=None if state_shardings is None else (state_shardings, None),
  )


def apply_gradient(
  state: TrainState,
  loss: jax.Array,
  extra: Mapping[str, jax.Array] | task_lib.Tracked,
  grads: Any,
  *,
  optimizer: optimizer_lib.Optimizer,
  ema_decay: float | None,
  outlier_deviations: float | None,
) -> tuple[TrainState, dict[str, jax.Array]]:
  """Applies a gradient to the state; see `make_train_step`.

  Args:
    loss: float ().
    extra: auxiliary output of the task's loss.
    grads: gradient of the loss with respect to `state.params`.
    optimizer: see make_train_step.
    ema_decay: see make_train_step.
    outlier_deviations: see make_train_step.
  """
  grad_norm = optax.tree.norm(grads)
  ok = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
  if outlier_deviations is not None:
    for value, recent in (
      (loss, state.recent_losses),
      (grad_norm, state.recent_grad_norms),
    ):
      ok &= ~guard.is_outlier(value, recent, deviations=outlier_deviations)
  updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
  extra, tracked = task_lib.split_tracked(extra)
  params: Any = optax.apply_updates(state.params, updates)
  params = {**params, **tracked} if tracked else params
  ema = _moved_average(state.ema, params, ema_decay)
  params, opt_state, ema = jax.tree.map(
    lambda new, old: jnp.where(ok, new, old),
    (params, opt_state, ema),
    (state.params, state.opt_state, state.ema),
  )
  skipped = (~ok).astype(jnp.int32)
  in_a_row = (state.num_skipped_in_a_row + 1) * skipped
  new_state = dataclasses.replace(
    state,
    step=state.step + 1,
    params=params,
    opt_state=opt_state,
    ema=ema,
    num_skipped=state.num_skipped + skipped,
    num_skipped_in_a_row=in_a_row,
    recent_losses=guard.remember(state.recent_losses, loss, ok),
    recent_grad_norms=guard.remember(state.recent_grad_norms, grad_norm, ok),
  )
  metrics = {
    "loss": loss,
    "grad_norm": grad_norm,
    "learning_rate": optimizer.learning_rate(state.step),
    "guard/skipped": new_state.num_skipped,
    "guard/skipped_in_a_row": in_a_row,
    "guard/rollbacks": state.num_rollbacks,
  }
  return new_state, _merged(metrics, extra)


def _moved_average(ema, params, decay):
  if ema is None:
    return None
  return jax.tree.map(lambda a, p: a + (1.0 - decay) * (p - a), ema, params)


def _merged(metrics: dict, extra: Mapping) -> dict:
  taken = sorted(set(metrics) & set(extra))
  if taken:
    raise ValueError(
      f"The task's metrics {taken} have names that the step uses itself: "
      "rename them."
    )
  shapes = {name: jnp.shape(value) for name, value in extra.items()}
  arrays = {name: shape for name, shape in shapes.items() if shape}
  if arrays:
    raise ValueError(f"Metrics must be scalars, got shapes {arrays}.")
  return {**metrics, **extra}
