import jax
import numpy as np
import pytest

from clap_jax import config as config_lib
from clap_jax.training import optimizer as optimizer_lib
from clap_jax.training import state as state_lib
from clap_jax.training import step as step_lib
from clap_jax.training import task as task_lib
from tests.training import tiny_task


def make(config, task=None, **kwargs):
  """(state, step function) of the tiny task on one device."""
  task = task or tiny_task.TinyTask()
  params = jax.eval_shape(task.init, jax.random.key(0))
  optimizer = optimizer_lib.make_optimizer(config, params, total_steps=10)
  state = state_lib.init_state(
    task,
    optimizer,
    seed=np.uint32(3),
    ema=kwargs.get("ema_decay") is not None,
  )
  return state, step_lib.make_train_step(task, optimizer, **kwargs)


def learned(state):
  """Copies of what a skipped update must not touch."""
  return jax.tree.map(np.array, (state.params, state.opt_state, state.ema))


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
def test_guard_skips_and_leaves_every_bit(bad):
  config = config_lib.OptimizerConfig(learning_rate=0.1, weight_decay=0.1)
  state, train_step = make(config, ema_decay=0.9)
  batches = tiny_task.batches_from(0)
  state, _ = train_step(state, next(batches))
  before = learned(state)
  poisoned = next(batches)
  poisoned["y"] = poisoned["y"].copy()
  poisoned["y"][3, 1] = bad  # 1e30 overflows in the square
  state, metrics = train_step(state, poisoned)
  jax.tree.map(np.testing.assert_array_equal, before, learned(state))
  assert int(state.step) == 2
  assert int(state.num_skipped) == int(state.num_skipped_in_a_row) == 1
  assert int(metrics["guard/skipped"]) == 1
  state, metrics = train_step(state, next(batches))
  assert int(state.num_skipped) == 1
  assert int(metrics["guard/skipped_in_a_row"]) == 0
  assert np.isfinite(metrics["loss"])
  moved = jax.tree.map(
    lambda a, b: np.any(a != np.asarray(b)), before[0], state.params
  )
  assert all(jax.tree.leaves(moved))


def test_noise_depends_on_the_step_and_the_seed_only():
  config = config_lib.OptimizerConfig(learning_rate=0.1)
  batch = next(tiny_task.batches_from(0))
  losses = []
  for _ in range(2):
    state, train_step = make(config)
    _, metrics = train_step(state, batch)
    losses.append(float(metrics["loss"]))
  assert losses[0] == losses[1]
  state, _ = make(config)
  first = jax.random.key_data(state_lib.step_rng(state))
  state, _ = train_step(state, batch)
  second = jax.random.key_data(state_lib.step_rng(state))
  assert np.any(np.asarray(first) != np.asarray(second))


def test_frozen_parameters_stay_and_have_no_part_in_the_norm():
  config = config_lib.OptimizerConfig(
    learning_rate=0.1, weight_decay=0.1, groups=(("^tower/", 0.0),)
  )
  state, train_step = make(config)
  before = learned(state)[0]
  grads = jax.grad(
    lambda params: tiny_task.TinyTask().loss(
      params, next(tiny_task.batches_from(0)), state_lib.step_rng(state)
    )[0]
  )(state.params)
  state, metrics = train_step(state, next(tiny_task.batches_from(0)))
  np.testing.assert_array_equal(
    before["tower"]["kernel"], state.params["tower"]["kernel"]
  )
  assert np.any(before["head"]["kernel"] != state.params["head"]["kernel"])
  np.testing.assert_allclose(
    metrics["grad_norm"], np.linalg.norm(grads["head"]["kernel"]), rtol=1e-5
  )


def test_moving_average():
  config = config_lib.OptimizerConfig(learning_rate=0.1)
  state, train_step = make(config, ema_decay=0.75)
  before = learned(state)[0]
  state, _ = train_step(state, next(tiny_task.batches_from(0)))
  expected = jax.tree.map(
    lambda old, new: 0.75 * old + 0.25 * np.asarray(new), before, state.params
  )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7),
    expected,
    learned(state)[2],
  )


class _BadMetricsTask(tiny_task.TinyTask):
  def loss(self, params, batch, rng):
    loss, _ = super().loss(params, batch, rng)
    return loss, {"loss": loss}


def test_metrics_of_a_taken_name_are_refused():
  config = config_lib.OptimizerConfig(learning_rate=0.1)
  state, train_step = make(config, task=_BadMetricsTask())
  with pytest.raises(ValueError, match=r"\['loss'\] have names"):
    train_step(state, next(tiny_task.batches_from(0)))


class _TrackingTask(tiny_task.TinyTask):
  """Keeps a running mean of its input beside its parameters."""

  def init(self, rng):
    mean = jax.numpy.ones((8, 8))
    return super().init(rng) | {"batch_stats": {"mean": mean}}

  def loss(self, params, batch, rng):
    loss, metrics = super().loss(params, batch, rng)
    mean = params["batch_stats"]["mean"]
    new = 0.5 * mean + 0.5 * batch["x"].mean(axis=0)
    # The loss depends on it, but no gradient reaches it.
    return loss + mean.sum(), task_lib.Tracked(
      metrics, {"batch_stats": {"mean": new}}
    )


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_tracked_collections_are_renewed_not_learned(name):
  config = config_lib.OptimizerConfig(
    learning_rate=0.1, weight_decay=0.5, name=name
  )
  state, train_step = make(config, task=_TrackingTask(), ema_decay=0.75)
  batch = next(tiny_task.batches_from(0))
  moments = [np.shape(leaf) for leaf in jax.tree.leaves(state.opt_state)]
  assert (8, 8) not in moments
  expected = 0.5 + 0.5 * np.broadcast_to(batch["x"].mean(axis=0), (8, 8))
  state, metrics = train_step(state, batch)
  mean = np.asarray(state.params["batch_stats"]["mean"])
  np.testing.assert_allclose(mean, expected, rtol=1e-5)
  np.testing.assert_allclose(
    state.ema["batch_stats"]["mean"], 0.75 + 0.25 * expected, rtol=1e-5
  )
  assert "max_error" in metrics
  poisoned = dict(batch, y=np.full_like(batch["y"], np.nan))
  state, _ = train_step(state, poisoned)
  np.testing.assert_array_equal(state.params["batch_stats"]["mean"], mean)


class _RenamingTask(_TrackingTask):
  def loss(self, params, batch, rng):
    loss, (metrics, collections) = super().loss(params, batch, rng)
    return loss, task_lib.Tracked(metrics, {"tower": collections})


def test_only_tracked_collections_are_renewed():
  config = config_lib.OptimizerConfig(learning_rate=0.1)
  state, train_step = make(config, task=_RenamingTask())
  with pytest.raises(ValueError, match=r"updates \['tower'\]"):
    train_step(state, next(tiny_task.batches_from(0)))
