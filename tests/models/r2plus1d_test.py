"""R(2+1)D: sizes, shapes, and statistics that no device count changes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from clap_jax.models import batch_norm, r2plus1d, variants
from clap_jax.training import flops

MICRO = variants.R2PLUS1D_SIZES["r2plus1d_micro"]


def clips(batch=8, seed=0):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 255, (batch, 4, 16, 16, 3), np.uint8)


def count(tree):
  return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(
  ("name", "num_parameters"),
  # Without a classifier: 31,505,325 of torchvision's less its 513 * 400.
  [("r2plus1d_34", 63_491_975), ("r2plus1d_18", 31_505_325 - 513 * 400)],
)
def test_public_sizes(name, num_parameters):
  model = r2plus1d.R2Plus1D(variants.R2PLUS1D_SIZES[name])
  shapes = jax.eval_shape(
    model.init, jax.random.key(0), jnp.zeros((1, 4, 32, 32, 3), jnp.uint8)
  )
  assert count(shapes["params"]) == num_parameters


def test_mid_widths_of_thirty_four_layers():
  """method.md 2.1: 144/144, 230/288, 460/576, 921/1152, then equal ones."""
  size = variants.R2PLUS1D_SIZES["r2plus1d_34"]
  assert size.mid_widths(64, 64) == (144, 144)
  assert size.mid_widths(64, 128) == (230, 288)
  assert size.mid_widths(128, 256) == (460, 576)
  assert size.mid_widths(256, 512) == (921, 1152)
  stock = variants.R2PLUS1D_SIZES["r2plus1d_18"]
  assert stock.mid_widths(64, 128) == (230, 230)


def test_feature_map_before_pooling():
  """16 frames of 112 px become 2 x 7 x 7 (method.md 2.1)."""
  size = variants.R2PLUS1D_SIZES["r2plus1d_18"]
  model = r2plus1d.R2Plus1D(size)
  frames = jnp.zeros((1, 16, 112, 112, 3), jnp.uint8)

  def last_block():
    _, state = model.init_with_output(
      jax.random.key(0), frames, capture_intermediates=True
    )
    return state["intermediates"]["layer4_block1"]["__call__"][0]

  assert jax.eval_shape(last_block).shape == (1, 2, 7, 7, 512)


def forward(model, variables, frames):
  return jax.jit(
    lambda v, x: model.apply(v, x, train=True, mutable=["batch_stats"])
  )(variables, frames)


@pytest.fixture(scope="module")
def variables():
  return jax.jit(r2plus1d.R2Plus1D(MICRO).init)(jax.random.key(0), clips())


def assert_close(a, b, atol=1e-5):
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=atol), a, b
  )


@pytest.mark.parametrize("num_groups", [1, 8])
def test_eight_devices_give_what_one_gives(variables, num_groups):
  model = r2plus1d.R2Plus1D(MICRO, norm_groups=num_groups)
  expected = forward(model, variables, clips())
  mesh = jax.make_mesh(
    (8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,)
  )
  spread = jax.device_put(clips(), NamedSharding(mesh, PartitionSpec("data")))
  assert_close(forward(model, variables, spread), expected)


def test_groups_are_batches_of_their_own(variables):
  """And their running averages are the mean of what each would have kept."""
  whole = forward(r2plus1d.R2Plus1D(MICRO, norm_groups=2), variables, clips())
  model = r2plus1d.R2Plus1D(MICRO)
  halves = [forward(model, variables, clips()[i : i + 4]) for i in (0, 4)]
  assert_close(whole[0], np.concatenate([y for y, _ in halves]))
  mean = jax.tree.map(lambda a, b: (a + b) / 2, halves[0][1], halves[1][1])
  assert_close(whole[1], mean)
  together = forward(model, variables, clips())
  assert np.abs(together[0] - whole[0]).max() > 1e-3


def test_no_groups_leave_the_averages_alone(variables):
  model = r2plus1d.R2Plus1D(MICRO, norm_groups=0)
  y, state = forward(model, variables, clips())
  jax.tree.map(
    np.testing.assert_array_equal,
    state["batch_stats"],
    variables["batch_stats"],
  )
  np.testing.assert_allclose(model.apply(variables, clips()), y, atol=1e-5)


def test_a_batch_that_does_not_divide_is_refused(variables):
  model = r2plus1d.R2Plus1D(MICRO, norm_groups=3)
  with pytest.raises(ValueError, match="8 cannot be cut into 3"):
    forward(model, variables, clips())


def step_of(variables, policy):
  """Traces value and gradient; "" recomputes nothing."""

  def loss(params):
    model = r2plus1d.R2Plus1D(
      MICRO, remat=bool(policy), remat_policy=policy or "nothing"
    )
    y, state = model.apply(
      variables | {"params": params},
      clips(),
      train=True,
      mutable=["batch_stats"],
    )
    return (y**2).sum(), state

  step = jax.jit(jax.value_and_grad(loss, has_aux=True))
  return step.trace(variables["params"])


def test_remat_changes_no_value_and_no_gradient(variables):
  results = [
    step_of(variables, policy).lower().compile()(variables["params"])
    for policy in ("", "products")
  ]
  assert_close(*results, atol=1e-4)


def test_kept_convolutions_are_not_computed_again(variables):
  plain, nothing, products = (
    flops.count(step_of(variables, policy).jaxpr).flops
    for policy in ("", "nothing", "products")
  )
  assert products == plain
  assert nothing > 1.2 * plain


def test_batch_norm_is_its_definition():
  x = np.random.default_rng(1).normal(3.0, 2.0, (4, 2, 3, 5)).astype("f4")
  norm = batch_norm.BatchNorm(momentum=0.1, epsilon=1e-3)
  variables = norm.init(jax.random.key(0), x, train=False)
  y, state = norm.apply(variables, x, train=True, mutable=["batch_stats"])
  flat = x.reshape(-1, 5).astype(np.float64)
  expected = (flat - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-3)
  np.testing.assert_allclose(y.reshape(-1, 5), expected, atol=1e-5)
  stats = state["batch_stats"]
  np.testing.assert_allclose(stats["mean"], 0.9 * flat.mean(0), rtol=1e-5)
  np.testing.assert_allclose(
    stats["var"], 0.1 + 0.9 * flat.var(0, ddof=1), rtol=1e-5
  )
  later = norm.apply(state | {"params": variables["params"]}, x, train=False)
  np.testing.assert_allclose(
    later, (x - stats["mean"]) / np.sqrt(stats["var"] + 1e-3), atol=1e-5
  )


def test_the_order_of_frames_matters(variables):
  model = r2plus1d.R2Plus1D(dataclasses.replace(MICRO))
  forwards = model.apply(variables, clips())
  backwards = model.apply(variables, clips()[:, ::-1])
  assert np.abs(forwards - backwards).max() > 1e-3
