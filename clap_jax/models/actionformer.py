"""ActionFormer as published: backbone, heads and decoding.

Source: Zhang et al., "ActionFormer: Localizing Moments of Actions with
Transformers", ECCV 2022, and the parameters of its public checkpoints.

Unlike those of temporal_layers, these layers do not clear the padded steps of
their input: biases of a norm there reach the last steps of a video, and public
checkpoints were trained with that. Sequences must be padded as in public
inference, see `actionformer_config.padded_length`.
"""

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from clap_jax.models.actionformer_config import ActionFormerConfig
from clap_jax.models.layers import Dense
from clap_jax.models.temporal_layers import band_attention, window
from clap_jax.ops.masking import keep, masked_softmax
from clap_jax.ops.points import PointPredictions, points_in_ranges

_MLP_RATIO = 4
_PATH_SCALE = 1e-4  # scale of a residual branch at the first step
_EMPTY_PROBABILITY = 1e-6  # for a class without examples, at the first step
_NORM_EPSILON = 1e-5
# Uniform within plus or minus 1 / sqrt(number of inputs).
_KERNEL_INIT = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class ActionFormer(nn.Module):
  """Predicts pyramid points from features (b, t, d) and a mask (b, t).

  Attributes:
    config: hyper-parameters of the model.
    num_classes: number of action classes.
    max_length: steps of a training sequence.
  """

  config: ActionFormerConfig
  num_classes: int
  max_length: int

  @nn.compact
  def __call__(
    self,
    features: jax.Array,
    mask: jax.Array,
    *,
    deterministic: bool = True,
  ) -> PointPredictions:
    config, num_steps = self.config, features.shape[1]
    levels = self._backbone(
      keep(features, mask), mask, deterministic=deterministic
    )
    masks = [level_mask for _, level_mask in levels]
    if config.level_norm:
      norms = [_norm(f"level_norm_{i}") for i in range(len(levels))]
      levels = [
        (norm(x), m) for norm, (x, m) in zip(norms, levels, strict=True)
      ]
    logits = _Head(
      self.num_classes,
      config,
      bias_init=_class_bias(config),
      name="class_head",
    )(levels)
    raw = _Head(2, config, name="offset_head")(levels)
    scale = self.param("offset_scale", nn.initializers.ones, (len(levels),))
    points = points_in_ranges(num_steps, config.ranges)
    offsets = [nn.relu(x * scale[i]) * float(2**i) for i, x in enumerate(raw)]
    return PointPredictions(
      class_logits=jnp.concatenate(logits, axis=1),
      offsets=jnp.concatenate(offsets, axis=1),
      points=jax.tree.map(jnp.asarray, points),
      point_mask=jnp.concatenate(masks, axis=1),
    )

  def _backbone(self, x, mask, *, deterministic):
    """Returns (features, mask) of every level, before the levels' norms."""
    config = self.config
    if config.stream_widths:
      x = self._projected(x, mask)
    for i in range(config.num_stem_convs):
      x = _Conv(
        config.width,
        config.stem_kernel_size,
        use_bias=not config.stem_norm,
        name=f"stem_{i}",
      )(x, mask)
      if config.stem_norm:
        x = _norm(f"stem_norm_{i}")(x)
      x = nn.relu(x)
    if config.absolute_positions:
      codes = jnp.asarray(
        position_codes(x.shape[1], config.width, max_length=self.max_length)
      )
      x = x + codes[None] * mask[..., None]
    for i in range(config.num_stem_blocks):
      block = _Block(config, config.windows[0], 1, name=f"stem_block_{i}")
      x = block(x, mask, deterministic=deterministic)
    levels = [(x, mask)]
    for level, size in enumerate(config.windows[1:], start=1):
      block = _Block(config, size, 2, name=f"down_block_{level - 1}")
      x = block(x, mask, deterministic=deterministic)
      mask = mask[:, ::2]
      levels.append((x, mask))
    for level, (x, _) in enumerate(levels):
      self.sow("levels", f"level_{level}", x)  # of the backbone only
    return levels

  def _projected(self, x, mask):
    config = self.config
    parts = jnp.split(x, np.cumsum(config.stream_widths)[:-1], axis=-1)
    projected = [
      keep(Dense(width, name=f"project_{i}")(part), mask)
      for i, (part, width) in enumerate(
        zip(parts, config.projected_widths, strict=True)
      )
    ]
    return jnp.concatenate(projected, axis=-1)


def position_codes(
  length: int, width: int, *, max_length: int
) -> np.ndarray:  # float32 (length, width)
  """Returns alternating sine and cosine codes, scaled by 1 / sqrt(width).

  For more than `max_length` steps they are interpolated from `max_length` ones.
  """
  angle = np.arange(max_length)[:, None] / np.power(
    10_000.0, np.arange(width)[None] // 2 * 2 / width
  )
  codes = np.where(np.arange(width) % 2, np.cos(angle), np.sin(angle))
  codes = (codes / math.sqrt(width)).astype(np.float32)
  if length <= max_length:
    return codes[:length]
  place = (np.arange(length) + 0.5) * (max_length / length) - 0.5
  place = place.clip(0, max_length - 1)
  low = place.astype(np.int64)
  high = np.minimum(low + 1, max_length - 1)
  share = (place - low).astype(np.float32)[:, None]
  return codes[low] * (1 - share) + codes[high] * share


def _class_bias(config):
  """Returns the initializer of the class head's biases."""

  def init(rng, shape, dtype=jnp.float32):
    del rng
    probability = np.full(shape, config.prior_probability)
    probability[list(config.empty_classes)] = _EMPTY_PROBABILITY
    return jnp.asarray(np.log(probability / (1 - probability)), dtype)

  return init


def _norm(name):
  return nn.LayerNorm(epsilon=_NORM_EPSILON, use_fast_variance=False, name=name)


class _Conv(nn.Module):
  """Convolution over time; its output is zero outside the mask."""

  features: int
  kernel_size: int
  use_bias: bool = True
  bias_init: Any = nn.initializers.zeros_init()

  @nn.compact
  def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
    views = window(x, size=self.kernel_size, stride=1)
    y = Dense(
      self.features,
      use_bias=self.use_bias,
      kernel_init=_KERNEL_INIT,
      bias_init=self.bias_init,
      name="dense",
    )(jnp.concatenate(views, axis=-1))
    return keep(y, mask)


class _DepthwiseConv(nn.Module):
  """Depthwise convolution of three steps, without bias."""

  stride: int

  @nn.compact
  def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
    init = nn.initializers.variance_scaling(
      1 / 3, "fan_in", "uniform", in_axis=0, out_axis=1
    )
    kernel = self.param("kernel", init, (3, x.shape[-1]))
    views = window(x, size=3, stride=self.stride)
    products = [view * kernel[i] for i, view in enumerate(views)]
    y = functools.reduce(jnp.add, products)
    return keep(y, mask[:, :: self.stride])


class _Attention(nn.Module):
  """Self-attention after a depthwise convolution of each of q, k and v."""

  config: ActionFormerConfig
  window_steps: int  # up to 1 for all
  stride: int

  @nn.compact
  def __call__(self, x, mask, *, deterministic):
    config, num_heads = self.config, self.config.num_heads
    out_mask = mask[:, :: self.stride]

    def heads(name):  # (b, t, d) -> (b, h, t / stride, d / h)
      y = _DepthwiseConv(self.stride, name=f"{name}_conv")(x, mask)
      y = _norm(f"{name}_norm")(y)
      y = self._dense(name)(y)
      y = y.reshape(*y.shape[:2], num_heads, config.width // num_heads)
      return jnp.swapaxes(y, 1, 2)

    q, k, v = heads("q"), heads("k"), heads("v")
    if self.window_steps > 1:
      y = band_attention(q, k, v, mask=out_mask, bias=self._distance_bias())
    else:
      logits = jnp.einsum("bhqe,bhke->bhqk", q, k)
      logits = logits / math.sqrt(q.shape[-1])
      weights = masked_softmax(logits, out_mask[:, None, None], axis=-1)
      y = jnp.einsum("bhqk,bhke->bhqe", weights, v)
    y = jnp.swapaxes(y, 1, 2).reshape(x.shape[0], -1, config.width)
    y = self._dense("out")(y)
    y = nn.Dropout(config.dropout_rate, deterministic=deterministic)(y)
    return keep(y, out_mask)

  def _dense(self, name):
    return Dense(self.config.width, kernel_init=_KERNEL_INIT, name=name)

  def _distance_bias(self):
    config = self.config
    shape = (config.num_heads, self.window_steps)
    if not config.relative_positions:
      return jnp.zeros(shape)
    init = nn.initializers.truncated_normal(math.sqrt(2 / config.width))
    return self.param("distance_bias", init, shape)


class _DropPath(nn.Module):
  """Learned scale per channel; in training whole branches are dropped."""

  rate: float

  @nn.compact
  def __call__(self, x, *, deterministic):
    if not self.rate:
      return x
    init = nn.initializers.constant(_PATH_SCALE)
    x = x * self.param("scale", init, (x.shape[-1],))
    drop = nn.Dropout(
      self.rate, broadcast_dims=(1, 2), deterministic=deterministic
    )
    return drop(x)


class _Mlp(nn.Module):
  """Two linear layers, each followed by dropout."""

  config: ActionFormerConfig

  @nn.compact
  def __call__(self, x, *, deterministic):
    width, rate = self.config.width, self.config.dropout_rate

    def dense(outputs, name):
      return Dense(outputs, kernel_init=_KERNEL_INIT, name=name)

    y = nn.gelu(dense(_MLP_RATIO * width, "up")(x), approximate=False)
    y = nn.Dropout(rate)(y, deterministic=deterministic)
    y = dense(width, "down")(y)
    return nn.Dropout(rate)(y, deterministic=deterministic)


class _Block(nn.Module):
  """Attention and MLP, each normalized before, scaled and added."""

  config: ActionFormerConfig
  window_steps: int
  stride: int

  @nn.compact
  def __call__(self, x, mask, *, deterministic):
    config = self.config
    rate = config.drop_path_rate
    out_mask = mask[:, :: self.stride]
    y = _Attention(config, self.window_steps, self.stride, name="attention")(
      _norm("attention_norm")(x), mask, deterministic=deterministic
    )
    if self.stride > 1:
      around: Any = ((1, 1),)  # its annotation allows only names
      x = nn.max_pool(x, (3,), strides=(self.stride,), padding=around)
      x = x[:, : out_mask.shape[1]]
    path = _DropPath(rate, name="attention_path")
    x = keep(x, out_mask) + path(y, deterministic=deterministic)
    y = _Mlp(config, name="mlp")(
      _norm("mlp_norm")(x), deterministic=deterministic
    )
    path = _DropPath(rate, name="mlp_path")
    return x + path(keep(y, out_mask), deterministic=deterministic)


class _Head(nn.Module):
  """Convolutions with LayerNorm and ReLU, then one to the outputs.

  All levels share these layers.
  """

  num_outputs: int
  config: ActionFormerConfig
  bias_init: Any = nn.initializers.zeros_init()

  @nn.compact
  def __call__(self, levels) -> list[jax.Array]:  # float32 (b, t_i, outputs)
    config, size = self.config, self.config.head_kernel_size
    outputs = [x for x, _ in levels]
    for i in range(config.num_convs):
      conv = _Conv(
        config.head_width,
        size,
        use_bias=not config.head_norm,
        name=f"conv_{i}",
      )
      norm = lambda x: x  # noqa: E731
      if config.head_norm:
        norm = _norm(f"norm_{i}")
      outputs = [
        nn.relu(norm(conv(x, mask)))
        for x, (_, mask) in zip(outputs, levels, strict=True)
      ]
    last = _Conv(self.num_outputs, size, bias_init=self.bias_init, name="out")
    return [last(x, mask) for x, (_, mask) in zip(outputs, levels, strict=True)]
