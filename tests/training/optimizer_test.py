import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clap_jax import config as config_lib
from clap_jax.training import optimizer as optimizer_lib

PARAMS = {
  "tower": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones((3,))},
  "head": {"kernel": jnp.ones((3, 2))},
}
ZERO_GRADS = jax.tree.map(jnp.zeros_like, PARAMS)


def first_update(grads, **kwargs):
  arguments = {"learning_rate": 0.5, "schedule": "constant"} | kwargs
  config = config_lib.OptimizerConfig(**arguments)
  optimizer = optimizer_lib.make_optimizer(config, PARAMS, total_steps=10)
  updates, _ = optimizer.update(grads, optimizer.init(PARAMS), PARAMS)
  return updates


def test_decay_spares_biases_and_norms_even_of_stacked_layers():
  names = ("kernel", "embedding", "bias", "scale", "positions", "query")
  params = {"layers": {name: jnp.ones((4, 3)) for name in names}}
  config = config_lib.OptimizerConfig(
    learning_rate=0.5, schedule="constant", weight_decay=0.1
  )
  optimizer = optimizer_lib.make_optimizer(config, params, total_steps=10)
  grads = jax.tree.map(jnp.zeros_like, params)
  updates, _ = optimizer.update(grads, optimizer.init(params), params)
  for name in names:
    expected = -0.05 if name in ("kernel", "embedding") else 0.0
    np.testing.assert_allclose(updates["layers"][name], expected)


def test_sgd_decays_through_the_momentum():
  """As `torch.optim.SGD`: parameter p, velocity v = 0.9 v + 0.1 p."""
  config = config_lib.OptimizerConfig(
    name="sgd",
    b1=0.9,
    weight_decay=0.1,
    learning_rate=0.5,
    schedule="constant",
  )
  optimizer = optimizer_lib.make_optimizer(config, PARAMS, total_steps=10)
  params, state = PARAMS, optimizer.init(PARAMS)
  expected, velocity = 1.0, 0.0
  for _ in range(5):
    updates, state = optimizer.update(ZERO_GRADS, state, params)
    params = jax.tree.map(jnp.add, params, updates)
    velocity = 0.9 * velocity + 0.1 * expected
    expected -= 0.5 * velocity
  np.testing.assert_allclose(params["head"]["kernel"], expected, rtol=1e-5)


def test_adam_decays_every_parameter_through_the_gradient():
  """As `torch.optim.Adam`: the gradient of every parameter p gets 0.1 p."""
  config = config_lib.OptimizerConfig(
    name="adam", weight_decay=0.1, learning_rate=0.5, schedule="constant",
    gradient_clip=None,
  )  # fmt: skip
  optimizer = optimizer_lib.make_optimizer(config, PARAMS, total_steps=10)
  params, state = PARAMS, optimizer.init(PARAMS)
  expected, mean, square = 1.0, 0.0, 0.0
  for step in range(1, 5):
    updates, state = optimizer.update(ZERO_GRADS, state, params)
    params = jax.tree.map(jnp.add, params, updates)
    gradient = 0.1 * expected
    mean = 0.9 * mean + 0.1 * gradient
    square = 0.999 * square + 0.001 * gradient**2
    corrected = mean / (1 - 0.9**step), square / (1 - 0.999**step)
    expected -= 0.5 * corrected[0] / (np.sqrt(corrected[1]) + 1e-8)
  for leaf in jax.tree.leaves(params):
    np.testing.assert_allclose(leaf, expected, rtol=1e-4)


def test_groups_scale_freeze_and_the_first_match_counts():
  grads = jax.tree.map(jnp.ones_like, PARAMS)
  updates = first_update(
    grads,
    name="sgd",
    b1=0.0,
    gradient_clip=None,
    groups=(("bias$", 0.0), ("^tower/", 0.1)),
  )
  np.testing.assert_array_equal(updates["tower"]["bias"], 0.0)
  np.testing.assert_allclose(updates["tower"]["kernel"], -0.05)
  np.testing.assert_allclose(updates["head"]["kernel"], -0.5)


def test_clipping_leaves_frozen_gradients_out():
  grads = {
    "tower": {"kernel": jnp.full((2, 3), 1e6), "bias": jnp.full((3,), 1e6)},
    "head": {"kernel": jnp.full((3, 2), 0.1)},
  }
  updates = first_update(grads, name="sgd", b1=0.0, groups=(("^tower/", 0.0),))
  np.testing.assert_allclose(updates["head"]["kernel"], -0.05, rtol=1e-6)


def test_frozen_parameters_have_no_moments():
  config = config_lib.OptimizerConfig(
    learning_rate=0.1, groups=(("^tower/", 0.0),)
  )
  optimizer = optimizer_lib.make_optimizer(config, PARAMS, total_steps=10)
  shapes = [
    leaf.shape for leaf in jax.tree.leaves(optimizer.init(PARAMS)) if leaf.ndim
  ]
  assert shapes == [(3, 2), (3, 2)]


def test_unmatched_groups_are_all_named():
  groups = (("towr", 0.1), ("^tower/", 0.1), ("tower/bias", 0.2))
  with pytest.raises(ValueError, match=r"\['towr', 'tower/bias'\]") as error:
    first_update(ZERO_GRADS, groups=groups)
  assert "head/kernel" in str(error.value)


def test_all_frozen_is_refused():
  with pytest.raises(ValueError, match="All parameters are frozen"):
    first_update(ZERO_GRADS, groups=((".", 0.0),))


def test_schedule_warms_up_then_decays_to_zero():
  config = config_lib.OptimizerConfig(
    learning_rate=0.4, warmup=config_lib.Duration(20, "percent")
  )
  schedule = optimizer_lib.make_schedule(config, total_steps=20)
  rates = np.array([schedule(step) for step in range(21)])
  np.testing.assert_allclose(rates[:4], [0.1, 0.2, 0.3, 0.4], rtol=1e-6)
  np.testing.assert_allclose(rates[4], 0.4, rtol=1e-6)
  np.testing.assert_allclose(rates[12], 0.2, rtol=1e-6)
  np.testing.assert_allclose(rates[20], 0.0, atol=1e-7)
  assert np.all(np.diff(rates[4:]) < 0)


def test_schedule_falls_where_it_is_told():
  config = config_lib.OptimizerConfig(
    learning_rate=1.0,
    schedule="step",
    warmup=config_lib.Duration(4, "steps"),
    decay_percents=(50.0, 75.0),
  )
  schedule = optimizer_lib.make_schedule(config, total_steps=20)
  rates = [float(schedule(step)) for step in range(20)]
  np.testing.assert_allclose(rates[:4], [0.25, 0.5, 0.75, 1.0])
  np.testing.assert_allclose(rates[4:10], 1.0)
  np.testing.assert_allclose(rates[11:15], 0.1, rtol=1e-6)
  np.testing.assert_allclose(rates[16:], 0.01, rtol=1e-6)
  twentieth = dataclasses.replace(config, decay_factor=0.05)
  schedule = optimizer_lib.make_schedule(twentieth, total_steps=20)
  np.testing.assert_allclose(schedule(19), 0.0025, rtol=1e-6)


@pytest.mark.parametrize("percents", [(10.0,), (50.0, 50.1)])
def test_falls_within_the_warmup_or_at_one_step_are_refused(percents):
  config = config_lib.OptimizerConfig(
    learning_rate=1.0,
    schedule="step",
    warmup=config_lib.Duration(4, "steps"),
    decay_percents=percents,
  )
  with pytest.raises(ValueError, match="decay_percents"):
    optimizer_lib.make_schedule(config, total_steps=20)


def test_a_schedule_of_no_steps():
  """What is to be trained for no step is not held against its falls."""
  config = config_lib.OptimizerConfig(
    learning_rate=1.0, schedule="step", decay_percents=(50.0, 75.0)
  )
  assert optimizer_lib.make_schedule(config, total_steps=0)(0) == 1.0


@pytest.mark.parametrize(
  "values",
  [
    {"schedule": "step"},
    {"decay_percents": (3.0,)},
    {"schedule": "step", "decay_percents": (60.0, 40.0)},
  ],
)
def test_a_fall_and_its_schedule_go_together(values):
  with pytest.raises(ValueError, match="decay_percents"):
    config_lib.OptimizerConfig(learning_rate=1.0, **values)


def test_warmup_longer_than_the_run_is_refused():
  config = config_lib.OptimizerConfig(
    learning_rate=0.4, warmup=config_lib.Duration(30, "steps")
  )
  with pytest.raises(ValueError, match="warm-up of 30 steps"):
    optimizer_lib.make_schedule(config, total_steps=20)
