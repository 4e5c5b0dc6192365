"""Defines layers over a masked time axis: convolution, attention, blocks.

All take x (b, t, d) with a bool mask (b, t) and return zeros where the mask is
False; such steps never affect the others, even if not finite.
"""

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from clap_jax.models import partitioning
from clap_jax.models.layers import Dense, MlpBlock
from clap_jax.ops.masking import keep, masked_softmax

# Steps per block of queries in local attention; short sequences take one.
_CHUNK_STEPS = 64


def window(x: jax.Array, *, size: int, stride: int) -> list[jax.Array]:
  """Returns `size` shifted views of x (b, t, d) around steps 0, stride, ...

  Each view is (b, ceil(t / stride), d); zeros beyond the ends. `size`
  is odd and the middle view holds the steps themselves.
  """
  radius, length = size // 2, x.shape[-2]
  padded = jnp.pad(x, ((0, 0), (radius, radius), (0, 0)))
  return [padded[:, i : i + length : stride] for i in range(size)]


class Conv1d(nn.Module):
  """Convolution over time, as one matrix product of shifted copies.

  XLA's CPU convolutions, above all their gradients, are slower than this.

  Attributes:
    features: output width.
    kernel_size: number of steps; odd.
    stride: steps between outputs; output i is centred on step i * stride.
    bias_init: initializer of the (features,) bias.
  """

  features: int
  kernel_size: int = 3
  stride: int = 1
  kernel_init: Any = nn.initializers.lecun_normal()
  bias_init: Any = nn.initializers.zeros_init()

  @nn.compact
  def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
    views = window(keep(x, mask), size=self.kernel_size, stride=self.stride)
    y = Dense(
      self.features,
      kernel_init=self.kernel_init,
      bias_init=self.bias_init,
      name="dense",
    )(jnp.concatenate(views, axis=-1))
    return keep(y, mask[:, :: self.stride])


class DepthwiseConv1d(nn.Module):
  """Depthwise convolution over time, without bias."""

  kernel_size: int = 3

  @nn.compact
  def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
    width = x.shape[-1]
    # Each output sees kernel_size inputs, the first axis: hence the fan-in.
    init = nn.initializers.lecun_normal(in_axis=0, out_axis=1)
    kernel = self.param("kernel", init, (self.kernel_size, width))
    views = window(keep(x, mask), size=self.kernel_size, stride=1)
    products = [view * kernel[i] for i, view in enumerate(views)]
    y = functools.reduce(jnp.add, products)
    return keep(y, mask)


class LocalAttention(nn.Module):
  """Self-attention in which a step sees `radius` steps to each side.

  Logits have a learned bias per head and distance. Sequences longer than two
  blocks are cut into blocks that see their neighbours only, so that time and
  memory grow linearly with t; the result is the same.

  Attributes:
    num_heads: number of heads; must divide the width.
    radius: number of steps to each side, >= 1.
  """

  num_heads: int
  radius: int

  @nn.compact
  def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
    width = x.shape[-1]
    if width % self.num_heads:
      raise ValueError(
        f"num_heads must divide the width: got num_heads={self.num_heads}, "
        f"width={width}."
      )
    bias = self.param(
      "distance_bias",
      nn.initializers.zeros_init(),
      (self.num_heads, 2 * self.radius + 1),
    )

    def heads(name):  # (b, t, d) -> (b, h, t, d / h)
      y = Dense(width, name=name)(x)
      y = y.reshape(*x.shape[:-1], self.num_heads, width // self.num_heads)
      return partitioning.constrain(jnp.swapaxes(y, 1, 2), batch=0, heads=1)

    y = band_attention(heads("q"), heads("k"), heads("v"), mask=mask, bias=bias)
    y = jnp.swapaxes(y, 1, 2).reshape(x.shape)
    return keep(Dense(width, name="out")(y), mask)


def band_attention(
  q: jax.Array,  # (b, h, t, e)
  k: jax.Array,  # (b, h, t, e)
  v: jax.Array,  # (b, h, t, e)
  *,
  mask: jax.Array,  # bool (b, t), of the keys
  bias: jax.Array,  # (h, 2 * radius + 1), by key minus query
) -> jax.Array:  # (b, h, t, e)
  """Computes attention within the bias's radius; linear in t if long."""
  if q.shape[2] > 2 * max(_CHUNK_STEPS, bias.shape[1] // 2):
    return chunked_band_attention(q, k, v, mask=mask, bias=bias)
  steps = jnp.arange(q.shape[2])
  distance = steps[None, :] - steps[:, None]
  return _attend(q, k, v, mask=mask[:, None], distance=distance, bias=bias)


def chunked_band_attention(q, k, v, *, mask, bias):
  """Computes `band_attention` in blocks of queries, for any length.

  Blocks of queries are at least as long as the radius; a block's keys are its
  own and those of both neighbours.
  """
  length = q.shape[2]
  chunk = max(_CHUNK_STEPS, bias.shape[1] // 2)
  num_chunks = -(-length // chunk)
  tail = num_chunks * chunk - length

  def blocks(x, axis):  # t on `axis` -> (num_chunks, chunk) there
    shape = [*x.shape]
    shape[axis : axis + 1] = [-1, chunk]
    return x.reshape(shape)

  def pad(x, axis, before, after):
    return jnp.pad(
      x, [(before, after) if i == axis else (0, 0) for i in range(x.ndim)]
    )

  def neighbours(x, axis):  # t on `axis` -> (num_chunks, 3 * chunk) there
    x = blocks(pad(x, axis, chunk, tail + chunk), axis)
    parts = [
      jax.lax.slice_in_dim(x, i, i + num_chunks, axis=axis) for i in range(3)
    ]
    return jnp.concatenate(parts, axis=axis + 1)

  step = jnp.arange(chunk)
  distance = jnp.arange(3 * chunk)[None, :] - chunk - step[:, None]
  y = _attend(
    blocks(pad(q, 2, 0, tail), 2),
    neighbours(k, 2),
    neighbours(v, 2),
    mask=neighbours(mask, 1)[:, None],
    distance=distance,
    bias=bias[:, None],
  )
  return y.reshape(*q.shape[:2], -1, q.shape[3])[:, :, :length]


def _attend(q, k, v, *, mask, distance, bias):
  """Attends in a band: mask (b, ..., k), distance (q, k), bias (h, ..)."""
  radius = bias.shape[-1] // 2
  logits = jnp.einsum("...qe,...ke->...qk", q, k)
  logits = logits / math.sqrt(q.shape[-1])
  by_pair = bias[..., jnp.clip(distance + radius, 0, 2 * radius)]
  near = jnp.abs(distance) <= radius
  weights = masked_softmax(
    logits + by_pair[None], mask[..., None, :] & near, axis=-1
  )
  return jnp.einsum("...qk,...ke->...qe", weights, v)


class AttentionBlock(nn.Module):
  """Local attention and MLP with pre-normalisation and residuals.

  A depthwise convolution of three steps precedes the attention and gives it
  the order of close neighbours, as in ActionFormer.
  """

  num_heads: int
  radius: int
  mlp_ratio: float
  dropout_rate: float

  @nn.compact
  def __call__(self, x: jax.Array, mask: jax.Array, *, deterministic: bool):
    drop = nn.Dropout(self.dropout_rate, deterministic=deterministic)
    y = nn.LayerNorm(name="attention_norm")(x)
    y = y + DepthwiseConv1d(name="mix")(y, mask)
    x = x + drop(
      LocalAttention(self.num_heads, self.radius, name="attention")(y, mask)
    )
    y = nn.LayerNorm(name="mlp_norm")(x)
    y = MlpBlock(
      int(self.mlp_ratio * x.shape[-1]),
      dropout_rate=self.dropout_rate,
      name="mlp",
    )(y, deterministic=deterministic)
    return keep(x + drop(y), mask)


class ConvBlock(nn.Module):
  """Wide depthwise convolution, then MLP, added to the input.

  The convolutional variant of a pyramid block (after ConvNeXt, CVPR 2022).
  """

  kernel_size: int
  mlp_ratio: float
  dropout_rate: float

  @nn.compact
  def __call__(self, x: jax.Array, mask: jax.Array, *, deterministic: bool):
    drop = nn.Dropout(self.dropout_rate, deterministic=deterministic)
    y = DepthwiseConv1d(self.kernel_size, name="mix")(x, mask)
    y = nn.LayerNorm(name="norm")(x + y)
    y = MlpBlock(
      int(self.mlp_ratio * x.shape[-1]),
      dropout_rate=self.dropout_rate,
      name="mlp",
    )(y, deterministic=deterministic)
    return keep(x + drop(y), mask)
