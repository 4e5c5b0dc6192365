"""Defines video and text towers with a shared space and temperature."""

import dataclasses
import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from clap_jax.models import (
  layers,
  text_transformer,
  variants,
  video_tower,
)

MAX_LOGIT_SCALE = math.log(100.0)


@dataclasses.dataclass(frozen=True)
class DualEncoderConfig:
  """Options that determine the towers' parameters."""

  video_size: str  # a key of variants.VIDEO_SIZES; only for transformers
  text_size: str  # a key of variants.TEXT_SIZES
  num_frames: int  # frames per clip
  image_size: int  # pixels, both sides of a frame
  patch: tuple[int, int, int]  # tubelet: frames, pixels, pixels; likewise
  vocab_size: int
  max_text_length: int  # tokens
  projection_width: int  # width of the shared space
  num_classes: int  # classes of the auxiliary head; 0 for no head
  motion_gain: float = 0.0  # see video_transformer.MotionEmbed
  remat: bool = False
  dtype: str = "float32"
  video_tower: str = video_tower.TRANSFORMER  # one of video_tower.NAMES
  text_tower: str = "transformer"  # a key of text_transformer.STYLES
  batch_norm_groups: int = 1  # see batch_norm.BatchNorm
  remat_policy: str = "nothing"  # a key of attention.REMAT_POLICIES
  attention: str = "whole"  # a key of layers.ATTENTIONS; for the video tower
  query_chunk: int = 0  # queries per chunk with "chunked"


class DualEncoderOutput(NamedTuple):
  video: jax.Array  # float32 (b, d), L2-normalised
  text: jax.Array  # float32 (b, d), L2-normalised
  logit_scale: jax.Array  # float32 (), already exponentiated
  logit_bias: jax.Array  # float32 (), for the sigmoid objective
  class_logits: jax.Array | None  # float32 (b, c)
  region_logits: jax.Array | None  # float32 (b, 2): background, action


def l2_normalise(x: jax.Array) -> jax.Array:
  """Scales vectors (last axis) to unit length; zero vectors stay zero."""
  return x * jax.lax.rsqrt(
    jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), 1e-12)
  )


class DualEncoder(nn.Module):
  """Two towers and their projections into one space."""

  config: DualEncoderConfig

  def setup(self):
    config = self.config
    dtype: Any = jnp.dtype(config.dtype)
    self.video_tower = video_tower.make(config)
    self.text_tower = text_transformer.TextTransformer(
      variants.named_size(variants.TEXT_SIZES, config.text_size),
      vocab_size=config.vocab_size,
      max_length=config.max_text_length,
      style=variants.named(
        text_transformer.STYLES, config.text_tower, what="text tower"
      ),
      remat=config.remat,
      remat_policy=config.remat_policy,
      dtype=dtype,
    )
    self.video_projection = layers.Dense(
      config.projection_width, use_bias=False
    )
    self.text_projection = layers.Dense(config.projection_width, use_bias=False)
    self.logit_scale = self.param(
      "logit_scale", nn.initializers.constant(math.log(1 / 0.07)), ()
    )
    # As in SigLIP: with one positive among many pairs, most are -1.
    self.logit_bias = self.param(
      "logit_bias", nn.initializers.constant(-10.0), ()
    )
    if config.num_classes:
      init = nn.initializers.normal(0.01)
      self.class_head = layers.Dense(config.num_classes, kernel_init=init)
      self.region_head = layers.Dense(2, kernel_init=init)

  def __call__(
    self,
    frames: jax.Array,
    tokens: jax.Array,
    token_mask: jax.Array,
    *,
    train: bool = False,
  ) -> DualEncoderOutput:
    feature = self.video_feature(frames, train=train)
    heads = self.config.num_classes > 0
    logit_scale, logit_bias = self.logit_scalars()
    return DualEncoderOutput(
      video=self.project_video(feature),
      text=self.embed_text(tokens, token_mask),
      logit_scale=logit_scale,
      logit_bias=logit_bias,
      class_logits=self.class_head(feature) if heads else None,
      region_logits=self.region_head(feature) if heads else None,
    )

  def logit_scalars(self) -> tuple[jax.Array, jax.Array]:
    """Returns the logits' scale, exponentiated and limited, and their bias."""
    scale = jnp.exp(jnp.minimum(self.logit_scale, MAX_LOGIT_SCALE))
    return scale, self.logit_bias

  def video_feature(
    self, frames: jax.Array, *, train: bool = False
  ) -> jax.Array:
    """Encodes uint8 (b, t, height, width, 3) to float32 (b, d) of any norm."""
    return self.video_tower(frames, train=train)

  def text_tokens(
    self, tokens: jax.Array, token_mask: jax.Array
  ) -> text_transformer.TextOutput:
    return self.text_tower(tokens, token_mask)

  def embed_text(self, tokens: jax.Array, token_mask: jax.Array) -> jax.Array:
    """Encodes texts to unit vectors (b, d) of the shared space."""
    return self.project_text(self.text_tokens(tokens, token_mask).pooled)

  def project_video(self, feature: jax.Array) -> jax.Array:
    return l2_normalise(self.video_projection(feature))

  def project_text(self, pooled: jax.Array) -> jax.Array:
    return l2_normalise(self.text_projection(pooled))
