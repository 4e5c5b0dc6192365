"""Gradients of a batch that is encoded in slices are exact."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from clap_jax.losses import (
  contrastive,
  contrastive_sharded,
  microbatches,
)
from tests.losses import contrastive_oracle

BATCH, WIDTH = 32, 8


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


def objective(params, embeddings, batch):
  return contrastive_sharded.contrastive_loss(
    *embeddings,
    batch["pairs"],
    jnp.exp(params["log_scale"]),
    rules=contrastive.PRESETS["captions"],
  )


def make_mesh(devices):
  return jax.make_mesh(
    (devices,),
    ("data",),
    axis_types=(AxisType.Auto,),
    devices=jax.devices()[:devices],
  )


def gradients(function, devices):
  """((loss, metrics), gradients) on some devices."""
  mesh = make_mesh(devices)
  batch = jax.device_put(
    example_batch(), NamedSharding(mesh, PartitionSpec("data"))
  )
  params = jax.device_put(
    initial_params(), NamedSharding(mesh, PartitionSpec())
  )
  with jax.set_mesh(mesh):
    value_and_grad = jax.value_and_grad(function, has_aux=True)
    return jax.device_get(jax.jit(value_and_grad)(params, batch))


@pytest.mark.parametrize(("devices", "slices"), [(1, 4), (4, 2), (8, 4)])
def test_gradient_in_slices_equals_the_gradient_at_once(devices, slices):
  def at_once(params, batch):
    return objective(params, encode(params, batch), batch)

  def in_slices(params, batch):
    embeddings = microbatches.encode_in_slices(
      encode, params, batch, num_microbatches=slices
    )
    return objective(params, embeddings, batch)

  expected, actual = gradients(at_once, 1), gradients(in_slices, devices)
  for a, b in zip(*map(jax.tree.leaves, (actual, expected)), strict=True):
    assert np.max(np.abs(a - b)) <= 1e-5 * np.max(np.abs(b))


def test_slices_that_do_not_fit_are_refused():
  with pytest.raises(ValueError, match="num_microbatches=5"):
    microbatches.encode_in_slices(
      encode, initial_params(), example_batch(), num_microbatches=5
    )
