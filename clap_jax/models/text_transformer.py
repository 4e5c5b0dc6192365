"""Defines a text transformer over sub-word tokens."""

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from clap_jax.models import attention, variants


class TextOutput(NamedTuple):
  tokens: jax.Array  # float32 (b, l, d): one vector per token
  pooled: jax.Array  # float32 (b, d): one vector per text


@dataclasses.dataclass(frozen=True)
class TextStyle:
  """Architecture of a text tower, except its size."""

  block: variants.BlockStyle = variants.PLAIN_BLOCK
  embedding_norm: bool = False  # before the first block
  final_norm: bool = True  # after the last one
  pool: str = "mean"  # over the tokens, or "last": the end token alone


# By name of the tower: our own, and those whose weights can be imported.
STYLES = {
  "transformer": TextStyle(),
  # Radford et al., "Learning Transferable Visual Models From Natural Language
  # Supervision"; open_clip's own weights use the usual GELU.
  "clip": TextStyle(
    variants.BlockStyle("quick_gelu", norm_epsilon=1e-5, causal=True),
    pool="last",
  ),
  "open_clip": TextStyle(
    variants.BlockStyle("gelu", norm_epsilon=1e-5, causal=True), pool="last"
  ),
  # Devlin et al., "BERT"; the mean over tokens as in sentence-transformers.
  "bert": TextStyle(
    variants.BlockStyle("gelu", norm_epsilon=1e-12, norm_after=True),
    embedding_norm=True,
    final_norm=False,
  ),
}


class TextTransformer(nn.Module):
  """Encodes tokens to vectors; padding does not affect valid outputs.

  Attributes:
    size: width, depth and number of heads.
    vocab_size: number of sub-word pieces.
    max_length: maximum length of a text, in tokens.
    style: see TextStyle.
    remat: whether to recompute activations by block in the backward pass.
    remat_policy: a key of attention.REMAT_POLICIES.
    dtype: computation dtype; results are float32.
  """

  size: variants.TransformerSize
  vocab_size: int
  max_length: int
  style: TextStyle = TextStyle()
  remat: bool = False
  remat_policy: str = "nothing"
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
    if self.style.embedding_norm:
      x = self._norm("embedding_norm")(x)
    x = attention.Stack(
      attention.TokenBlock,
      self.size,
      remat=self.remat,
      remat_policy=self.remat_policy,
      style=self.style.block,
      dtype=self.dtype,
      name="blocks",
    )(x, mask)
    if self.style.final_norm:
      x = self._norm("norm")(x)
    x = x.astype(jnp.float32)
    return TextOutput(x, self._pooled(x, mask))

  def _norm(self, name: str) -> nn.LayerNorm:
    epsilon = self.style.block.norm_epsilon
    return nn.LayerNorm(epsilon=epsilon, dtype=self.dtype, name=name)

  def _pooled(self, x, mask):  # (b, l, d), (b, l) -> (b, d)
    if self.style.pool == "last":
      last = jnp.maximum(mask.sum(axis=-1) - 1, 0)
      return jnp.take_along_axis(x, last[:, None, None], axis=-2)[:, 0]
    weight = mask.astype(jnp.float32)[..., None]
    total = jnp.maximum(weight.sum(axis=-2), 1.0)
    return (x * weight).sum(axis=-2) / total
