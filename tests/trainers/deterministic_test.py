"""Fifty steps of the real towers: should give one result on 1, 2, 4, 8."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from clap_jax import types
from clap_jax.losses import contrastive, contrastive_cached, contrastive_sharded
from clap_jax.models import dual_encoder

NUM_STEPS = 50
BATCH_SIZE = 16
MODEL = dual_encoder.DualEncoder(
  dual_encoder.DualEncoderConfig(
    video_size="micro",
    text_size="micro",
    num_frames=4,
    image_size=16,
    patch=(2, 8, 8),
    vocab_size=20,
    max_text_length=6,
    projection_width=8,
    num_classes=0,
    motion_gain=5.0,
    remat=True,
  )
)


def _batch() -> types.ClipBatch:
  rng = np.random.default_rng(0)
  text_id = rng.integers(0, 6, BATCH_SIZE).astype(np.int32)
  has_text = rng.random(BATCH_SIZE) < 0.7
  start_sec = rng.uniform(0, 5, BATCH_SIZE).astype(np.float32)
  return types.ClipBatch(
    frames=rng.integers(0, 255, (BATCH_SIZE, 4, 16, 16, 3), np.uint8),
    tokens=rng.integers(1, 20, (BATCH_SIZE, 6)).astype(np.int32),
    token_mask=np.ones((BATCH_SIZE, 6), bool),
    pairs=types.PairMetadata(
      text_id=np.where(has_text, text_id, -1).astype(np.int32),
      class_id=text_id // 2,
      video_id=np.arange(BATCH_SIZE, dtype=np.int32) // 2,
      clip_start_sec=start_sec,
      clip_end_sec=start_sec + 1,
      caption_start_sec=start_sec,
      caption_end_sec=start_sec + 2,
      is_action=has_text,
      has_text=has_text,
      generic_text=np.zeros(BATCH_SIZE, bool),
      valid=np.ones(BATCH_SIZE, bool),
    ),
  )


def _encode(params, batch):
  output = MODEL.apply(params, batch.frames, batch.tokens, batch.token_mask)
  return output.video, output.text


def _objective(params, embeddings, batch):
  return contrastive_sharded.contrastive_loss(
    *embeddings,
    batch.pairs,
    jnp.exp(params["params"]["logit_scale"]),
    rules=contrastive.PRESETS["captions"],
    deterministic=True,
  )


def _train(num_devices: int):
  value_and_grad = contrastive_cached.cached_value_and_grad(
    _encode, _objective, num_microbatches=8, deterministic=True
  )
  optimizer = optax.adamw(1e-3)
  mesh = jax.make_mesh(
    (num_devices,),
    ("data",),
    axis_types=(jax.sharding.AxisType.Auto,),
    devices=jax.devices()[:num_devices],
  )
  whole = NamedSharding(mesh, PartitionSpec())
  batch = jax.device_put(_batch(), NamedSharding(mesh, PartitionSpec("data")))

  @jax.jit
  def step(params, moments, batch):
    (loss, _), gradient = value_and_grad(params, batch)
    update, moments = optimizer.update(gradient, moments, params)
    return optax.apply_updates(params, update), moments, loss

  with jax.set_mesh(mesh):
    params = jax.device_put(MODEL.init(jax.random.key(0), *_batch()[:3]), whole)
    moments = jax.device_put(optimizer.init(params), whole)
    losses = []
    for _ in range(NUM_STEPS):
      params, moments, loss = step(params, moments, batch)
      losses.append(float(loss))  # waits: one step in flight at a time
  return losses, jax.device_get(params)


@pytest.mark.slow
@pytest.mark.xfail(
  strict=True,
  reason="The loss at equal parameters has the same bits, but the gradient of "
  "a slice's towers differs in the last bit between 1 and 2 devices, also with "
  "one-threaded products; the small encoder of contrastive_cached_test agrees.",
)
def test_parameters_are_bit_identical_on_every_number_of_devices():
  losses, params = _train(1)
  assert losses[-1] < 0.8 * losses[0]
  for num_devices in (2, 4, 8):
    other_losses, other_params = _train(num_devices)
    assert other_losses == losses, num_devices
    jax.tree.map(np.testing.assert_array_equal, other_params, params)
