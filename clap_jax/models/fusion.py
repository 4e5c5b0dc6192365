"""Encodes sentences and fuses them with a video's features.

Text is fused late, so that one encoding of a video serves any number of queries
(as in SnAG, CVPR 2024).
"""

import dataclasses
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from clap_jax.models.layers import (
  Attention,
  Dense,
  MlpBlock,
  sinusoidal_positions,
)
from clap_jax.models.pyramid import Level
from clap_jax.ops.masking import keep, masked_max, masked_mean


@dataclasses.dataclass(frozen=True)
class FusionConfig:
  """Hyper-parameters of the text encoder and the fusion.

  Attributes:
    num_text_layers: number of self-attention layers over frozen token vectors.
    num_fusion_layers: number of layers that add the text to video features.
    num_heads: number of attention heads; must divide the pyramid's width.
    mlp_ratio: hidden width of the MLPs over their outer width.
    dropout_rate: dropout rate in all layers and after the token projection.
  """

  num_text_layers: int = 1
  num_fusion_layers: int = 1
  num_heads: int = 4
  mlp_ratio: float = 2.0
  dropout_rate: float = 0.1


class EncodedText(NamedTuple):
  """A batch of sentences."""

  tokens: jax.Array  # (q, l, d), zero outside the mask
  mask: jax.Array  # bool (q, l)
  pooled: jax.Array  # (q, d): mean of the tokens


class TextEncoder(nn.Module):
  """Encodes frozen token vectors (q, l, e) to the width of video features.

  Padded tokens have no effect; a sentence without tokens is all zeros.
  """

  width: int
  config: FusionConfig

  @nn.compact
  def __call__(
    self,
    query: jax.Array,  # (q, l, e)
    query_mask: jax.Array,  # bool (q, l)
    *,
    deterministic: bool = True,
  ) -> EncodedText:
    config = self.config
    drop = nn.Dropout(config.dropout_rate, deterministic=deterministic)
    x = nn.LayerNorm(name="input_norm")(keep(query, query_mask))
    x = drop(Dense(self.width, name="project")(x))
    codes = sinusoidal_positions(x.shape[1], self.width)
    x = keep(x + 0.1 * codes[None], query_mask)
    for i in range(config.num_text_layers):
      y = nn.LayerNorm(name=f"attention_norm_{i}")(x)
      x = x + drop(
        Attention(config.num_heads, name=f"attention_{i}")(y, y, query_mask)
      )
      y = nn.LayerNorm(name=f"mlp_norm_{i}")(x)
      x = x + drop(_mlp(config, f"mlp_{i}", y, deterministic))
    x = nn.LayerNorm(name="output_norm")(x)
    x = keep(x, query_mask)
    pooled = masked_mean(x, query_mask[..., None], axis=-2)
    return EncodedText(tokens=x, mask=query_mask, pooled=pooled)


class Fusion(nn.Module):
  """Fuses a sentence into every step of a video, without mixing steps.

  Each layer scales and shifts the normalized features by the pooled sentence
  (after FiLM, AAAI 2018), then attends to the tokens, then applies an MLP.
  """

  config: FusionConfig

  @nn.compact
  def __call__(
    self,
    x: jax.Array,  # (q, t, d)
    mask: jax.Array,  # bool (q, t)
    text: EncodedText,
    *,
    deterministic: bool = True,
  ) -> jax.Array:  # (q, t, d), zero outside the mask
    config = self.config
    width = x.shape[-1]
    drop = nn.Dropout(config.dropout_rate, deterministic=deterministic)
    for i in range(config.num_fusion_layers):
      # The product of snippet and sentence measures their match; it starts at
      # full strength instead of having to be learned.
      film = Dense(2 * width, name=f"film_{i}")(text.pooled)
      scale, shift = jnp.split(film[:, None], 2, axis=-1)
      y = nn.LayerNorm(name=f"film_norm_{i}")(x)
      x = x + drop(y * scale + shift)
      y = nn.LayerNorm(name=f"attention_norm_{i}")(x)
      x = x + drop(
        Attention(config.num_heads, name=f"attention_{i}")(
          y, text.tokens, text.mask
        )
      )
      y = nn.LayerNorm(name=f"mlp_norm_{i}")(x)
      x = x + drop(_mlp(config, f"mlp_{i}", y, deterministic))
    x = nn.LayerNorm(name="output_norm")(x)
    return keep(x, mask)


class LateFusion(nn.Module):
  """Fuses encoded videos with queries to features of each query's video."""

  width: int
  config: FusionConfig

  def setup(self):
    self.text = TextEncoder(self.width, self.config)
    self.fusion = Fusion(self.config)

  def __call__(
    self,
    encoded: Level,  # b videos
    query: jax.Array,  # (q, l, e)
    query_mask: jax.Array,  # bool (q, l)
    *,
    video_of_query: jax.Array | None,
    deterministic: bool,
  ) -> Level:  # q queries
    """Fuses features with the text; see `rows_of_queries` for the pairing."""
    rows = rows_of_queries(encoded, query, video_of_query=video_of_query)
    text = self.text(query, query_mask, deterministic=deterministic)
    fused = self.fusion(
      rows.features, rows.mask, text, deterministic=deterministic
    )
    return Level(fused, rows.mask)


def rows_of_queries(
  encoded: Level, query: jax.Array, *, video_of_query: jax.Array | None
) -> Level:
  """Returns the encoded video of each query, (b, ...) -> (q, ...).

  Without `video_of_query`, the row (q,) of each query's video, there must be
  one video, or as many as queries.
  """
  num_queries, num_videos = query.shape[0], encoded.mask.shape[0]
  if video_of_query is not None:
    return Level(*(x[video_of_query] for x in encoded))
  if num_videos == 1:
    return Level(
      *(jnp.broadcast_to(x, (num_queries, *x.shape[1:])) for x in encoded)
    )
  if num_videos != num_queries:
    raise ValueError(
      f"{num_queries} queries on {num_videos} videos need video_of_query, "
      "the row of the video for each query."
    )
  return encoded


class AbsenceHead(nn.Module):
  """Predicts one logit per query, high if its moment is absent from the video.

  Its inputs are the mean and maximum of the fused features, and the best score
  of the moments, whose gradient is stopped: the absence loss does not change
  the moments.
  """

  width: int

  @nn.compact
  def __call__(
    self,
    fused: Level,  # q queries
    moment_logits: jax.Array,  # float32 (q, p)
    *,
    moment_mask: jax.Array,  # bool (q, p)
  ) -> jax.Array:  # float32 (q,)
    x, mask = fused.features, fused.mask[..., None]
    best = masked_max(moment_logits, moment_mask, axis=-1, empty=0.0)
    pooled = jnp.concatenate(
      [
        masked_mean(x, mask, axis=-2),
        masked_max(x, mask, axis=-2, empty=0.0),
        jax.lax.stop_gradient(best)[:, None],
      ],
      axis=-1,
    )
    hidden = nn.relu(Dense(self.width, name="hidden")(pooled))
    return Dense(1, name="out")(hidden)[..., 0]


def _mlp(config, name, x, deterministic):
  return MlpBlock(
    int(config.mlp_ratio * x.shape[-1]),
    dropout_rate=config.dropout_rate,
    name=name,
  )(x, deterministic=deterministic)
