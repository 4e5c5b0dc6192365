"""Transformer blocks, stacked by one scan: depth costs no compile time."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from clap_jax.models import layers, variants


class TokenBlock(nn.Module):
  """Pre-norm self-attention and MLP over (b, l, d)."""

  size: variants.TransformerSize
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, x: jax.Array, mask: jax.Array
  ) -> jax.Array:  # (b, l, d), (b, l)
    y = nn.LayerNorm(dtype=self.dtype, name="norm_attention")(x)
    attention = layers.Attention(
      self.size.num_heads, dtype=self.dtype, name="attention"
    )
    x = x + attention(y, y, mask)
    y = nn.LayerNorm(dtype=self.dtype, name="norm_mlp")(x)
    mlp = layers.MlpBlock(self.size.mlp_width, dtype=self.dtype, name="mlp")
    return x + mlp(y)


class SpaceTimeBlock(nn.Module):
  """Attention over space, then over time, then an MLP, all pre-norm.

  The factorisation costs t * s^2 + s * t^2 instead of (t * s)^2.
  Source: Bertasius et al., "Is Space-Time Attention All You Need?", divided
  attention (space first here).
  """

  size: variants.TransformerSize
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:  # (b, t, s, d)
    def attend(y, name):
      normed = nn.LayerNorm(dtype=self.dtype, name=f"norm_{name}")(y)
      attention = layers.Attention(
        self.size.num_heads, dtype=self.dtype, name=name
      )
      return attention(normed, normed)

    x = x + attend(x, "space")
    x = x + jnp.swapaxes(attend(jnp.swapaxes(x, 1, 2), "time"), 1, 2)
    y = nn.LayerNorm(dtype=self.dtype, name="norm_mlp")(x)
    mlp = layers.MlpBlock(self.size.mlp_width, dtype=self.dtype, name="mlp")
    return x + mlp(y)


class Stack(nn.Module):
  """`size.depth` blocks of one class; parameters gain a leading depth axis.

  Attributes:
    block: the block's class; called as block(size, dtype)(x, *args).
    size: shared by all blocks.
    remat: recompute each block's activations in the backward pass.
  """

  block: Any
  size: variants.TransformerSize
  remat: bool = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, *args: jax.Array) -> jax.Array:
    block = self.block
    if self.remat:
      block = nn.remat(block, prevent_cse=False)

    def body(module, carry, _):
      return module(carry, *args), None

    scan = nn.scan(
      body,
      variable_axes={"params": 0},
      split_rngs={"params": True},
      length=self.size.depth,
    )
    x, _ = scan(block(self.size, self.dtype, name="layers"), x, None)
    return x


class AttentionPool(nn.Module):
  """One learned query attends over all tokens: (b, n, d) -> (b, d)."""

  num_heads: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    query = self.param(
      "query", nn.initializers.normal(0.02), (1, 1, x.shape[-1])
    )
    query = jnp.broadcast_to(query, (x.shape[0], 1, x.shape[-1]))
    attention = layers.Attention(
      self.num_heads, dtype=self.dtype, name="attention"
    )
    return attention(query.astype(self.dtype), x, mask)[:, 0]
