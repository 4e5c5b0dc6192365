"""Accumulated gradients are exact, and bit-identical on any device count."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from clap_jax.losses import (
  contrastive,
  contrastive_cached,
  contrastive_sharded,
)
from tests.losses import contrastive_oracle

BATCH, WIDTH = 32, 8
DEVICES = (1, 2, 4, 8)


def example_batch():
  rng = np.random.default_rng(0)
  return {
    "video": rng.normal(size=(BATCH, 12)).astype(np.float32),
    "text": rng.normal(size=(BATCH, 10)).astype(np.float32),
    "pairs": contrastive_oracle.random_pairs(rng, BATCH, uneven=True),
  }


def initial_params():
  rng = np.random.default_rng(1)
  return {
    "video": rng.normal(size=(12, WIDTH)).astype(np.float32),
    "text": rng.normal(size=(10, WIDTH)).astype(np.float32),
    "shift": np.zeros(WIDTH, np.float32),
    "log_scale": np.float32(2.0),
  }


def encode(params, batch):
  def normalised(x):
    square = jnp.sum(x * x, axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(square + 1e-6)

  video = jax.nn.gelu(batch["video"] @ params["video"] + params["shift"])
  return normalised(video), normalised(batch["text"] @ params["text"])


def objective(params, embeddings, batch, *, deterministic=False):
  return contrastive_sharded.contrastive_loss(
    *embeddings,
    batch["pairs"],
    jnp.exp(params["log_scale"]),
    rules=contrastive.PRESETS["captions"],
    deterministic=deterministic,
  )


def make_mesh(devices):
  return jax.make_mesh(
    (devices,),
    ("data",),
    axis_types=(AxisType.Auto,),
    devices=jax.devices()[:devices],
  )


def train(value_and_grad, devices, steps):
  """Parameters, loss and gradients after some steps of gradient descent."""
  mesh = make_mesh(devices)
  batch = jax.device_put(
    example_batch(), NamedSharding(mesh, PartitionSpec("data"))
  )
  params = jax.device_put(
    initial_params(), NamedSharding(mesh, PartitionSpec())
  )

  @jax.jit
  def step(params, batch):
    (loss, _), gradients = value_and_grad(params, batch)
    params = jax.tree.map(lambda p, g: p - 0.1 * g, params, gradients)
    return params, loss, gradients

  with jax.set_mesh(mesh):
    for _ in range(steps):
      # Simulated devices share threads, and collectives of two steps at once
      # may wait for each other's: one step at a time.
      params, loss, gradients = jax.block_until_ready(step(params, batch))
  return jax.device_get((params, loss, gradients))


@pytest.mark.parametrize(("devices", "slices"), [(1, 4), (4, 2), (8, 4)])
def test_accumulated_gradient_equals_the_gradient_at_once(devices, slices):
  def at_once(params, batch):
    return objective(params, encode(params, batch), batch)

  expected = train(jax.value_and_grad(at_once, has_aux=True), 1, 1)
  accumulated = contrastive_cached.cached_value_and_grad(
    encode, objective, num_microbatches=slices
  )

  def in_slices(params, batch):
    embeddings = contrastive_cached.encode_in_slices(
      encode, params, batch, num_microbatches=slices
    )
    return objective(params, embeddings, batch)

  for function in (accumulated, jax.value_and_grad(in_slices, has_aux=True)):
    actual = train(function, devices, 1)
    for a, b in zip(*map(jax.tree.leaves, (actual, expected)), strict=True):
      assert np.max(np.abs(a - b)) <= 1e-5 * np.max(np.abs(b))


def test_same_bits_after_50_steps_on_1_2_4_8_devices():
  value_and_grad = contrastive_cached.cached_value_and_grad(
    encode,
    functools.partial(objective, deterministic=True),
    num_microbatches=8,
    deterministic=True,
  )
  first, *others = (train(value_and_grad, n, 50) for n in DEVICES)
  assert first[1] < 2.5  # it does learn
  for other in others:
    for a, b in zip(*map(jax.tree.leaves, (first, other)), strict=True):
      np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("objective_name", contrastive.OBJECTIVES)
def test_deterministic_loss_has_one_value_and_gradient(objective_name):
  """Tiles larger than 8 items, so that products have more than one block."""
  rng = np.random.default_rng(3)
  video, text = contrastive_oracle.random_embeddings(rng, 256, 64)
  pairs = contrastive_oracle.random_pairs(rng, 256, uneven=True)

  def loss(video, text, scale, bias, pairs):
    return contrastive_sharded.contrastive_loss(
      video,
      text,
      pairs,
      scale,
      logit_bias=bias,
      rules=contrastive.PRESETS["captions"],
      objective=objective_name,
      deterministic=True,
      tile_size=16,
    )[0]

  function = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2, 3)))
  results = []
  for devices in DEVICES:
    mesh = make_mesh(devices)
    arrays = jax.device_put(
      (video, text, pairs), NamedSharding(mesh, PartitionSpec("data"))
    )
    with jax.set_mesh(mesh):
      result = function(
        *arrays[:2], jnp.float32(50.0), jnp.float32(-2.0), arrays[2]
      )
    results.append(jax.tree.leaves(jax.device_get(result)))
  for other in results[1:]:
    for a, b in zip(results[0], other, strict=True):
      np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"num_microbatches": 5}, "num_microbatches=5"),
    ({"num_microbatches": 12, "deterministic": True}, "power of two"),
  ],
)
def test_slices_that_do_not_fit_are_refused(options, message):
  function = contrastive_cached.cached_value_and_grad(
    encode, objective, **options
  )
  with pytest.raises(ValueError, match=message):
    function(initial_params(), example_batch())
