"""Defines Moment-DETR's hyper-parameters and layers; see moment_detr.py."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from clap_jax.models.layers import Dense
from clap_jax.ops.masking import masked_softmax

_MAX_PROJECTIONS = 3
_NORM_EPSILON = 1e-5
# Uniform within plus or minus 1 / sqrt(number of inputs).
_KERNEL_INIT = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
_XAVIER = nn.initializers.xavier_uniform()
# The public code initialises the three input maps of attention as one matrix.
_JOINT_XAVIER = nn.initializers.variance_scaling(0.5, "fan_avg", "uniform")


@dataclasses.dataclass(frozen=True)
class MomentDetrConfig:
  """Hyper-parameters of Moment-DETR.

  Attributes:
    width: channels of the transformer.
    num_heads: number of attention heads; must divide the width.
    num_encoder_layers: number of layers over features and tokens.
    num_decoder_layers: number of layers over codes; each has a loss.
    mlp_width: hidden channels of the layers' MLPs.
    norm_first: whether norms precede attention and MLP, or follow the sum.
    num_moments: number of codes, each of which becomes one moment.
    num_projections: number of layers that project features and tokens to the
      width, 1 to 3.
    dropout_rate: dropout rate of the transformer.
    input_dropout_rate: dropout rate of projections and text positions.
    text_positions: whether tokens have learned positions.
    max_text_length: maximum number of tokens that are read of a query.
    normalize_text: whether every token is divided by its norm.
    stream_widths: channels of the feature streams, each divided by its norm; ()
      leaves the features unchanged.
    time_channels: whether to append to every feature its start and end as
      shares of the video.
  """

  width: int = 256
  num_heads: int = 8
  num_encoder_layers: int = 2
  num_decoder_layers: int = 2
  mlp_width: int = 1024
  norm_first: bool = False
  num_moments: int = 10
  num_projections: int = 2
  dropout_rate: float = 0.1
  input_dropout_rate: float = 0.5
  text_positions: bool = False
  max_text_length: int = 32
  normalize_text: bool = False
  stream_widths: tuple[int, ...] = ()
  time_channels: bool = True

  def __post_init__(self):
    sizes = {
      name: getattr(self, name)
      for name in (
        "width",
        "num_heads",
        "num_encoder_layers",
        "num_decoder_layers",
        "mlp_width",
        "num_moments",
        "max_text_length",
      )
    }
    if min(sizes.values()) < 1 or min(self.stream_widths, default=1) < 1:
      raise ValueError(
        f"sizes must be at least 1, got {sizes}, stream_widths "
        f"{self.stream_widths}."
      )
    if self.width % self.num_heads or self.width % 2:
      raise ValueError(
        f"width must be even and a multiple of num_heads, got {self.width} and "
        f"{self.num_heads}."
      )
    if not 1 <= self.num_projections <= _MAX_PROJECTIONS:
      raise ValueError(
        f"num_projections must be 1 to {_MAX_PROJECTIONS}, got "
        f"{self.num_projections}."
      )
    rates = (self.dropout_rate, self.input_dropout_rate)
    if not all(0 <= rate < 1 for rate in rates):
      raise ValueError(
        "dropout_rate and input_dropout_rate must be in [0, 1), got "
        f"{rates[0]} and {rates[1]}."
      )


class Linear(nn.Module):
  """A linear layer whose kernel and bias start as in PyTorch."""

  features: int
  kernel_init: Any = _KERNEL_INIT

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    bound = 1 / math.sqrt(x.shape[-1])

    def bias_init(key, shape, dtype=jnp.float32):
      return jax.random.uniform(key, shape, dtype, -bound, bound)

    dense = Dense(
      self.features,
      kernel_init=self.kernel_init,
      bias_init=bias_init,
      name="dense",
    )
    return dense(x)


class Projection(nn.Module):
  """Norm, dropout and a linear layer, with a ReLU unless it is the last."""

  config: MomentDetrConfig
  is_last: bool

  @nn.compact
  def __call__(self, x: jax.Array, *, deterministic: bool) -> jax.Array:
    x = norm(name="norm")(x)
    rate = self.config.input_dropout_rate
    x = nn.Dropout(rate)(x, deterministic=deterministic)
    x = Linear(self.config.width, name="linear")(x)
    return x if self.is_last else nn.relu(x)


class TextPositions(nn.Module):
  """Adds learned positions to tokens and normalises the sum."""

  config: MomentDetrConfig

  @nn.compact
  def __call__(self, text: jax.Array, *, deterministic: bool) -> jax.Array:
    config, length = self.config, text.shape[1]
    positions = self.param(
      "positions",
      nn.initializers.normal(1.0),
      (config.max_text_length, config.width),
    )
    x = norm(name="norm")(text + positions[:length])
    return nn.Dropout(config.input_dropout_rate)(x, deterministic=deterministic)


class Attention(nn.Module):
  """Multi-head attention with dropout of the weights."""

  config: MomentDetrConfig

  @nn.compact
  def __call__(
    self,
    query: jax.Array,  # (b, n, d)
    key: jax.Array,  # (b, k, d)
    value: jax.Array,  # (b, k, d)
    mask: jax.Array | None,  # bool (b, k)
    *,
    deterministic: bool,
  ) -> jax.Array:  # (b, n, d)
    width, num_heads = self.config.width, self.config.num_heads

    def heads(name, x):
      dense = Dense(width, kernel_init=_JOINT_XAVIER, name=name)
      return dense(x).reshape(*x.shape[:-1], num_heads, width // num_heads)

    q, k, v = heads("q", query), heads("k", key), heads("v", value)
    logits = jnp.einsum("bqhd,bkhd->bhqk", q, k)
    logits = logits * (width // num_heads) ** -0.5
    valid = jnp.ones(key.shape[:2], bool) if mask is None else mask
    valid = jnp.broadcast_to(valid[:, None, None], logits.shape)
    weights = masked_softmax(logits, valid, axis=-1)
    rate = self.config.dropout_rate
    weights = nn.Dropout(rate)(weights, deterministic=deterministic)
    y = jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(query.shape)
    out = Dense(width, kernel_init=_XAVIER, name="out")
    return out(y)


class _Layer(nn.Module):
  """Shared parts of encoder and decoder layers."""

  config: MomentDetrConfig

  def _add(
    self, x: jax.Array, name: str, branch: Callable, *, deterministic: bool
  ) -> jax.Array:
    """Adds a branch with dropout to `x`, normalised before or after."""
    norm_of = norm(name=name)
    y = branch(norm_of(x) if self.config.norm_first else x)
    rate = self.config.dropout_rate
    x = x + nn.Dropout(rate)(y, deterministic=deterministic)
    return x if self.config.norm_first else norm_of(x)

  def _mlp(self, x: jax.Array, *, deterministic: bool) -> jax.Array:
    config = self.config
    up, down = (
      Linear(size, kernel_init=_XAVIER, name=name)
      for name, size in (("up", config.mlp_width), ("down", config.width))
    )
    x = nn.relu(up(x))
    x = nn.Dropout(config.dropout_rate)(x, deterministic=deterministic)
    return down(x)

  def _attention(self, name: str) -> Attention:
    return Attention(self.config, name=name)


class EncoderLayer(_Layer):
  """Self-attention and an MLP over features and tokens."""

  @nn.compact
  def __call__(
    self,
    x: jax.Array,  # (b, n, d)
    positions: jax.Array,  # (b, n, d)
    mask: jax.Array,  # bool (b, n)
    *,
    deterministic: bool,
  ) -> jax.Array:
    attention = self._attention("attention")

    def attend(y):
      at = y + positions
      return attention(at, at, y, mask, deterministic=deterministic)

    x = self._add(x, "attention_norm", attend, deterministic=deterministic)
    return self._add(
      x,
      "mlp_norm",
      lambda y: self._mlp(y, deterministic=deterministic),
      deterministic=deterministic,
    )


class DecoderLayer(_Layer):
  """Attention of codes to each other and to the memory, and an MLP."""

  @nn.compact
  def __call__(
    self,
    x: jax.Array,  # (b, m, d)
    codes: jax.Array,  # (b, m, d)
    memory: jax.Array,  # (b, n, d)
    positions: jax.Array,  # (b, n, d)
    mask: jax.Array,  # bool (b, n)
    *,
    deterministic: bool,
  ) -> jax.Array:
    attention = self._attention("attention")
    memory_attention = self._attention("memory_attention")

    def attend(y):
      at = y + codes
      return attention(at, at, y, None, deterministic=deterministic)

    def attend_memory(y):
      return memory_attention(
        y + codes, memory + positions, memory, mask, deterministic=deterministic
      )

    for name, branch in (
      ("attention_norm", attend),
      ("memory_norm", attend_memory),
      ("mlp_norm", lambda y: self._mlp(y, deterministic=deterministic)),
    ):
      x = self._add(x, name, branch, deterministic=deterministic)
    return x


def norm(name: str | None = None) -> nn.LayerNorm:
  return nn.LayerNorm(epsilon=_NORM_EPSILON, name=name)
