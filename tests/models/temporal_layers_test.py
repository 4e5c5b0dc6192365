import functools

import jax
import numpy as np
import pytest

from clap_jax.models import temporal_layers

RNG = np.random.default_rng(0)


def random(*shape):
  return RNG.normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("length", [7, 8])
def test_conv_equals_xla_convolution(stride, length):
  x, mask = random(2, length, 3), np.ones((2, length), bool)
  layer = temporal_layers.Conv1d(4, 3, stride)
  params = layer.init(jax.random.key(0), x, mask)
  kernel = params["params"]["dense"]["kernel"].reshape(3, 3, 4)
  expected = jax.lax.conv_general_dilated(
    x,
    kernel,
    window_strides=(stride,),
    padding=[(1, 1)],
    dimension_numbers=("NWC", "WIO", "NWC"),
  )[:, : -(-length // stride)]
  np.testing.assert_allclose(layer.apply(params, x, mask), expected, atol=1e-5)


def test_chunked_attention_equals_dense_and_a_plain_loop(monkeypatch):
  radius, length, e = 9, 150, 4
  q, k, v = (random(2, 3, length, e) for _ in range(3))
  bias = random(3, 2 * radius + 1)
  mask = np.arange(length) < np.array([[150], [101]])
  mask[0, 20:60] = False  # a gap wider than the window
  with monkeypatch.context() as patch:
    patch.setattr(temporal_layers, "_CHUNK_STEPS", length)
    dense = jax.jit(temporal_layers.band_attention)(
      q, k, v, mask=mask, bias=bias
    )
  chunked = jax.jit(temporal_layers.chunked_band_attention)(
    q, k, v, mask=mask, bias=bias
  )
  np.testing.assert_allclose(chunked, dense, atol=1e-5)
  for b, h, t in ((0, 0, 0), (1, 2, 63), (0, 1, 64), (1, 1, 100), (0, 2, 40)):
    near = [s for s in range(length) if abs(s - t) <= radius and mask[b, s]]
    logits = np.array(
      [q[b, h, t] @ k[b, h, s] / 2 + bias[h, s - t + radius] for s in near]
    )
    weight = np.exp(logits) / np.exp(logits).sum() if near else logits
    expected = weight @ v[b, h, near] if near else np.zeros(e)
    np.testing.assert_allclose(dense[b, h, t], expected, atol=1e-5)


@pytest.mark.parametrize("length", [20, 140])
def test_blocks_ignore_padding_whatever_it_holds(length):
  x, mask = random(2, length, 8), np.ones((2, length), bool)
  extra = np.full((2, 9, 8), np.nan, np.float32)
  padded = np.concatenate([x, extra], axis=1)
  padded_mask = np.concatenate([mask, np.zeros((2, 9), bool)], axis=1)
  padded = np.where(padded_mask[..., None], padded, 1e9)
  for block in (
    temporal_layers.AttentionBlock(2, 5, 2.0, 0.0),
    temporal_layers.ConvBlock(5, 2.0, 0.0),
  ):
    init = jax.jit(functools.partial(block.init, deterministic=True))
    apply = jax.jit(functools.partial(block.apply, deterministic=True))
    params = init(jax.random.key(1), x, mask)
    plain = apply(params, x, mask)
    longer = apply(params, padded, padded_mask)
    np.testing.assert_allclose(longer[:, :length], plain, atol=1e-5)
    assert not np.any(longer[:, length:])


def test_heads_must_divide_the_width():
  with pytest.raises(ValueError, match="num_heads=3"):
    temporal_layers.LocalAttention(3, 2).init(
      jax.random.key(0), random(1, 4, 8), np.ones((1, 4), bool)
    )
