"""The towers: shapes, laws of padding, scan against single blocks."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clap_jax.models import (
  attention,
  dual_encoder,
  layers,
  variants,
  video_transformer,
)
from clap_jax.models import frames as frames_lib

CONFIG = dual_encoder.DualEncoderConfig(
  video_size="micro",
  text_size="micro",
  num_frames=4,
  image_size=16,
  patch=(2, 8, 8),
  vocab_size=50,
  max_text_length=6,
  projection_width=8,
  num_classes=3,
)


def _inputs(batch=3):
  rng = np.random.default_rng(0)
  frames = rng.integers(0, 255, (batch, 4, 16, 16, 3), np.uint8)
  tokens = rng.integers(1, 50, (batch, 6)).astype(np.int32)
  mask = np.arange(6) < np.array([[6], [3], [1]])[:batch]
  return frames, tokens, mask


@pytest.fixture(scope="module")
def params():
  return dual_encoder.DualEncoder(CONFIG).init(jax.random.key(0), *_inputs())


def test_outputs_are_unit_vectors_of_the_projection_width(params):
  output = dual_encoder.DualEncoder(CONFIG).apply(params, *_inputs())
  for x in (output.video, output.text):
    assert x.shape == (3, 8)
    np.testing.assert_allclose(jnp.linalg.norm(x, axis=-1), 1, rtol=1e-5)
  np.testing.assert_allclose(output.logit_scale, 1 / 0.07, rtol=1e-5)
  assert output.class_logits.shape == (3, 3)
  assert output.region_logits.shape == (3, 2)


def test_logit_scale_is_clipped_at_one_hundred(params):
  params = jax.tree.map(lambda x: x, params)
  params["params"]["logit_scale"] = jnp.asarray(9.0)
  output = dual_encoder.DualEncoder(CONFIG).apply(params, *_inputs())
  np.testing.assert_allclose(output.logit_scale, 100.0, rtol=1e-5)


def test_padding_tokens_change_nothing(params):
  model = dual_encoder.DualEncoder(CONFIG)
  frames, tokens, mask = _inputs()
  other = np.where(mask, tokens, 7)
  one = model.apply(params, frames, tokens, mask).text
  two = model.apply(params, frames, other, mask).text
  np.testing.assert_allclose(one, two, atol=1e-6)


def test_remat_changes_no_value_and_no_gradient(params):
  remat = dataclasses.replace(CONFIG, remat=True)

  def loss(p, config):
    output = dual_encoder.DualEncoder(config).apply(p, *_inputs())
    return jnp.sum(output.video * output.text)

  plain = jax.value_and_grad(loss)(params, CONFIG)
  again = jax.value_and_grad(loss)(params, remat)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
    plain,
    again,
  )


def test_scanned_stack_equals_blocks_in_a_loop():
  size = variants.TransformerSize(16, 3, 2, 32)
  x = jax.random.normal(jax.random.key(1), (2, 4, 5, 16))
  stack = attention.Stack(attention.SpaceTimeBlock, size)
  params = stack.init(jax.random.key(0), x)
  expected = x
  for layer in range(size.depth):
    block = jax.tree.map(lambda p: p[layer], params["params"]["layers"])  # noqa: B023
    expected = attention.SpaceTimeBlock(size).apply({"params": block}, expected)
  np.testing.assert_allclose(stack.apply(params, x), expected, atol=1e-5)


def test_attention_agrees_with_a_numpy_loop():
  x = jax.random.normal(jax.random.key(2), (1, 3, 4))
  mask = jnp.array([[True, True, False]])
  module = layers.Attention(num_heads=1)
  params = module.init(jax.random.key(0), x, x, mask)
  got = module.apply(params, x, x, mask)
  p = jax.tree.map(np.asarray, params["params"])
  q, k, v = (
    np.asarray(x[0]) @ p[n]["kernel"] + p[n]["bias"] for n in ("q", "k", "v")
  )
  for i in range(3):
    weight = np.exp([q[i] @ k[j] / 2 for j in range(2)])
    value = sum(w * v[j] for j, w in enumerate(weight / weight.sum()))
    expected = value @ p["out"]["kernel"] + p["out"]["bias"]
    np.testing.assert_allclose(got[0, i], expected, rtol=1e-4, atol=1e-5)


def test_attention_with_every_key_masked_gives_no_nan():
  x = jnp.ones((1, 3, 4))
  module = layers.Attention(num_heads=2)
  params = module.init(jax.random.key(0), x, x)

  def apply(p):
    return module.apply(p, x, x, jnp.zeros((1, 3), bool)).sum()

  value, gradient = jax.value_and_grad(apply)(params)
  assert np.isfinite(value)
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradient))


def test_tubelets_keep_every_pixel_once():
  frames = np.arange(4 * 6 * 9 * 3).reshape(1, 4, 6, 9, 3)
  cut = video_transformer.tubelets(frames, (2, 3, 3))
  assert cut.shape == (1, 2, 6, 54)
  assert sorted(np.ravel(cut)) == list(range(frames.size))
  np.testing.assert_array_equal(
    np.ravel(frames[0, :2, :3, 3:6]), np.ravel(cut[0, 0, 1])
  )


def test_tubelets_refuse_a_clip_that_does_not_divide():
  with pytest.raises(ValueError, match="height must be a multiple"):
    video_transformer.tubelets(np.zeros((1, 4, 7, 8, 3)), (2, 4, 4))


def test_unknown_size_names_the_choices():
  with pytest.raises(ValueError, match="tiny"):
    variants.named_size(variants.VIDEO_SIZES, "huge")


def test_every_size_has_heads_that_divide_its_width():
  for table in (variants.VIDEO_SIZES, variants.TEXT_SIZES):
    for size in table.values():
      assert size.width % size.num_heads == 0


def test_motion_order_changes_the_feature(params):
  frames, _, _ = _inputs()
  model = dual_encoder.DualEncoder(CONFIG)
  forward = model.apply(params, frames, method="video_feature")
  backward = model.apply(params, frames[:, ::-1], method="video_feature")
  assert np.abs(forward - backward).max() > 1e-3


def _channels(frames, gain):
  """What MotionEmbed stands for, channel by channel."""
  colours = frames / 127.5 - 1.0
  motion = colours - colours.mean(axis=1, keepdims=True)
  return np.concatenate([0.5 * colours, gain * motion], axis=-1)


def test_motion_embedding_is_a_product_of_colours_and_differences():
  rng = np.random.default_rng(0)
  frames = rng.integers(0, 256, (2, 6, 8, 12, 3)).astype(np.uint8)
  embed = video_transformer.MotionEmbed(7, (2, 4, 4), gain=5.0)
  params = embed.init(jax.random.key(0), frames)["params"]
  params["bias"] = jnp.asarray(rng.normal(size=7), jnp.float32)
  cut = video_transformer.tubelets(
    _channels(frames.astype(np.float64), 5.0), (2, 4, 4)
  )
  expected = cut @ np.asarray(params["kernel"], np.float64) + params["bias"]
  found = embed.apply({"params": params}, frames)
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_what_stands_still_does_not_reach_the_weights_of_motion():
  frames = np.full((1, 4, 8, 8, 3), 40, np.uint8)
  embed = video_transformer.MotionEmbed(3, (2, 4, 4), gain=5.0)
  params = embed.init(jax.random.key(0), frames)

  def total(params):
    return jnp.sum(embed.apply(params, frames) ** 2)

  kernel = jax.grad(total)(params)["params"]["kernel"].reshape(-1, 2, 3, 3)
  assert np.abs(kernel[:, 0]).min() > 0
  np.testing.assert_array_equal(kernel[:, 1], 0)


def test_motion_gain_of_zero_leaves_colours_alone():
  frames = np.full((1, 2, 8, 8, 3), 255, np.uint8)
  np.testing.assert_allclose(frames_lib.SIGNED(frames, jnp.float32), 1.0)
