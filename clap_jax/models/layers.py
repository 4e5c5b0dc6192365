"""Small layers every tower and head shares."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


class Dense(nn.Module):
  """A linear layer that flattens its input to two axes before the product.

  XLA's CPU backward pass of a batched product is about twice slower than that
  of a flat one; on an accelerator both compile to the same program.

  Attributes:
    features: output width.
    use_bias: whether to add a bias.
    kernel_init: initializer of the (in, out) kernel.
    dtype: computation dtype; parameters stay float32.
  """

  features: int
  use_bias: bool = True
  kernel_init: Any = nn.initializers.lecun_normal()
  bias_init: Any = nn.initializers.zeros_init()
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:  # (*b, in) -> (*b, out)
    shape = (x.shape[-1], self.features)
    kernel = self.param("kernel", self.kernel_init, shape)
    flat = x.reshape(-1, shape[0]).astype(self.dtype)
    y = flat @ kernel.astype(self.dtype)
    if self.use_bias:
      bias = self.param("bias", self.bias_init, (self.features,))
      y = y + bias.astype(self.dtype)
    return y.reshape(*x.shape[:-1], self.features)


class MlpBlock(nn.Module):
  """Dense, GELU, Dense: (*b, d) -> (*b, d)."""

  hidden: int
  dropout_rate: float = 0.0
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, *, deterministic: bool = True) -> jax.Array:
    y = nn.gelu(Dense(self.hidden, dtype=self.dtype, name="up")(x))
    y = nn.Dropout(self.dropout_rate)(y, deterministic=deterministic)
    return Dense(x.shape[-1], dtype=self.dtype, name="down")(y)


class Attention(nn.Module):
  """Multi-head attention over the axis before the last.

  Keys where `key_mask` is False get no weight; a query whose keys are all
  masked returns zeros before the output projection.

  Attributes:
    num_heads: must divide the query's width.
    dtype: computation dtype; the softmax is float32.
  """

  num_heads: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self,
    query: jax.Array,  # (*b, q, d)
    key_value: jax.Array,  # (*b, k, d)
    key_mask: jax.Array | None = None,  # bool (*b, k)
  ) -> jax.Array:  # (*b, q, d)
    width = query.shape[-1]
    if width % self.num_heads:
      raise ValueError(
        f"num_heads must divide the width: got num_heads={self.num_heads}, "
        f"width={width}."
      )
    head_width = width // self.num_heads

    def heads(name, x):  # (*b, n, d) -> (*b, h, n, d / h)
      y = Dense(width, dtype=self.dtype, name=name)(x)
      y = y.reshape(*x.shape[:-1], self.num_heads, head_width)
      return jnp.swapaxes(y, -2, -3)

    q, k, v = heads("q", query), heads("k", key_value), heads("v", key_value)
    logits = jnp.einsum("...qd,...kd->...qk", q, k).astype(jnp.float32)
    logits = logits * head_width**-0.5
    if key_mask is None:
      weights = jax.nn.softmax(logits, axis=-1)
    else:
      valid = key_mask[..., None, None, :]
      logits = jnp.where(valid, logits, -1e30)
      weights = jax.nn.softmax(logits, axis=-1) * valid
    y = jnp.einsum("...qk,...kd->...qd", weights.astype(self.dtype), v)
    y = jnp.swapaxes(y, -2, -3).reshape(*query.shape[:-1], width)
    return Dense(width, dtype=self.dtype, name="out")(y)


def sinusoidal_positions(length: int, width: int) -> jax.Array:
  """Sine and cosine position codes, (length, width) float32; width even.

  Source: Vaswani et al., "Attention Is All You Need", section 3.5.
  """
  if width % 2:
    raise ValueError(f"width must be even, got {width}.")
  frequency = 10_000.0 ** (-jnp.arange(0, width, 2) / width)
  angle = jnp.arange(length)[:, None] * frequency[None, :]
  return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)
