"""Defines transformer blocks and stacks them by one scan."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from clap_jax.models import layers, partitioning, variants
from clap_jax.ops import convolution


class TokenBlock(nn.Module):
  """Self-attention and MLP over (b, l, d), normed before or after the sum."""

  size: variants.TransformerSize
  dtype: Any = jnp.float32
  style: variants.BlockStyle = variants.BlockStyle()

  @nn.compact
  def __call__(
    self, x: jax.Array, mask: jax.Array | None = None
  ) -> jax.Array:  # (b, l, d), (b, l)
    norm_attention = _norm(self, "norm_attention")
    norm_mlp = _norm(self, "norm_mlp")
    attention, mlp = _attention(self, "attention"), _mlp(self)
    if self.style.norm_after:
      x = norm_attention(x + attention(x, x, mask))
      return norm_mlp(x + mlp(x))
    y = norm_attention(x)
    x = x + attention(y, y, mask)
    return x + mlp(norm_mlp(x))


class SpaceTimeBlock(nn.Module):
  """Attention over space, then over time, then an MLP, all pre-norm.

  The factorisation costs t * s^2 + s * t^2 instead of (t * s)^2.
  Source: Bertasius et al., "Is Space-Time Attention All You Need?", divided
  attention (space first here).
  """

  size: variants.TransformerSize
  dtype: Any = jnp.float32
  style: variants.BlockStyle = variants.BlockStyle()

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:  # (b, t, s, d)
    def attend(y, name):
      normed = _norm(self, f"norm_{name}")(y)
      return _attention(self, name)(normed, normed)

    x = x + attend(x, "space")
    x = x + jnp.swapaxes(attend(jnp.swapaxes(x, 1, 2), "time"), 1, 2)
    return x + _mlp(self)(_norm(self, "norm_mlp")(x))


def _norm(block: nn.Module, name: str) -> nn.LayerNorm:
  return nn.LayerNorm(
    epsilon=block.style.norm_epsilon, dtype=block.dtype, name=name
  )


def _attention(block: nn.Module, name: str) -> layers.Attention:
  style = block.style
  return layers.Attention(
    block.size.num_heads,
    causal=style.causal,
    logit_cap=style.logit_cap,
    attention=style.attention,
    query_chunk=style.query_chunk,
    dtype=block.dtype,
    name=name,
  )


def _mlp(block: nn.Module) -> layers.MlpBlock:
  return layers.MlpBlock(
    block.size.mlp_width,
    activation=block.style.activation,
    dtype=block.dtype,
    name="mlp",
  )


# Values that the forward pass keeps of each block besides its input; others are
# recomputed in the backward pass. "products": all but cheap operations and
# products with batch dimensions.
REMAT_POLICIES = {
  "nothing": None,
  "products": jax.checkpoint_policies.save_from_both_policies(
    jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    jax.checkpoint_policies.save_only_these_names(convolution.RESULT),
  ),
}


class Stack(nn.Module):
  """`size.depth` blocks of one class; parameters gain a leading depth axis.

  Attributes:
    block: the block's class; called as block(size, dtype, style)(x, *args).
    size: size of all blocks.
    remat: whether to recompute each block's activations in the backward pass.
    remat_policy: a key of REMAT_POLICIES.
    style: style of all blocks.
  """

  block: Any
  size: variants.TransformerSize
  remat: bool = False
  remat_policy: str = "nothing"
  style: variants.BlockStyle = variants.BlockStyle()
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, *args: jax.Array) -> jax.Array:
    block = self.block
    if self.remat:
      policy = REMAT_POLICIES[self.remat_policy]
      block = nn.remat(block, prevent_cse=False, policy=policy)

    def body(module, carry, _):
      return partitioning.constrain(module(carry, *args), batch=0), None

    scan = nn.scan(
      body,
      variable_axes={"params": 0, "intermediates": 0},
      split_rngs={"params": True},
      length=self.size.depth,
    )
    module = block(self.size, self.dtype, self.style, name="layers")
    x, _ = scan(module, partitioning.constrain(x, batch=0), None)
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
