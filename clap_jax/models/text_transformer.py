"""A text transformer over sub-word tokens."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from clap_jax.models import attention, variants


class TextOutput(NamedTuple):
  tokens: jax.Array  # float32 (b, l, d): one vector per token
  pooled: jax.Array  # float32 (b, d): one vector per text


class TextTransformer(nn.Module):
  """Tokens to vectors; padding changes no valid output.

  Attributes:
    size: width, depth, heads.
    vocab_size: number of sub-word pieces.
    max_length: longest text in tokens.
    remat: recompute activations block by block in the backward pass.
    dtype: computation dtype; results are float32.
  """

  size: variants.TransformerSize
  vocab_size: int
  max_length: int
  remat: bool = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, tokens: jax.Array, mask: jax.Array
  ) -> TextOutput:  # int32 (b, l), bool (b, l)
    length = tokens.shape[-1]
    if length > self.max_length:
      raise ValueError(
        f"Texts may have at most {self.max_length} tokens, got {length}. "
        "Truncate them or raise `max_length`."
      )
    init = nn.initializers.normal(0.02)
    table = self.param("embedding", init, (self.vocab_size, self.size.width))
    positions = self.param(
      "positions", init, (self.max_length, self.size.width)
    )
    x = (table[tokens] + positions[:length]).astype(self.dtype)
    x = attention.Stack(
      attention.TokenBlock,
      self.size,
      remat=self.remat,
      dtype=self.dtype,
      name="blocks",
    )(x, mask)
    x = nn.LayerNorm(dtype=self.dtype, name="norm")(x).astype(jnp.float32)
    weight = mask.astype(jnp.float32)[..., None]
    total = jnp.maximum(weight.sum(axis=-2), 1.0)
    return TextOutput(x, (x * weight).sum(axis=-2) / total)
