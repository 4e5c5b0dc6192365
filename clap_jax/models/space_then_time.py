"""Defines a video transformer with attention over space, then over time.

Source: Arnab et al., "ViViT", model 2 with all tokens kept, as in Zhao et al.,
"VideoPrism".
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from clap_jax.models import (
  attention,
  frames,
  layers,
  variants,
  video_transformer,
)

TIME_DEPTH = 4  # blocks over time, in every published size
BLOCK = variants.BlockStyle("gelu", norm_epsilon=1e-6, logit_cap=50.0)


class SpaceThenTime(nn.Module):
  """Encodes clips uint8 (b, t, height, width, 3) to float32 (b, d).

  The feature is the mean over all normalised tokens.

  Attributes:
    size: size of the blocks over space; those over time have its width.
    patch: tubelet sides in frames and pixels (time, height, width).
    num_frames: clip length for which positions in time are learned; other
      lengths use interpolated positions.
    block: style of both stacks.
    remat: whether to recompute activations by block in the backward pass.
    remat_policy: a key of attention.REMAT_POLICIES.
    dtype: computation dtype; the result is float32.
  """

  size: variants.TransformerSize
  patch: tuple[int, int, int]
  num_frames: int
  block: variants.BlockStyle = BLOCK
  remat: bool = False
  remat_policy: str = "nothing"
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, clips: jax.Array, *, train: bool = False) -> jax.Array:
    del train  # has no effect here
    x = video_transformer.tubelets(frames.UNIT(clips, self.dtype), self.patch)
    x = layers.Dense(self.size.width, dtype=self.dtype, name="embed")(x)
    batch, steps, places, width = x.shape
    init = nn.initializers.normal(0.02)
    space = self.param("space_positions", init, (places, width))
    time = self.param(
      "time_positions", init, (self.num_frames // self.patch[0], width)
    )
    if steps != time.shape[0]:
      time = jax.image.resize(time, (steps, width), "linear")
    x = (x + space.astype(self.dtype)).reshape(-1, places, width)
    x = self._norm("space_norm")(self._stack("space", self.size.depth)(x))
    x = jnp.swapaxes(x.reshape(batch, steps, places, width), 1, 2)
    x = (x + time.astype(self.dtype)).reshape(-1, steps, width)
    x = self._norm("norm")(self._stack("time", TIME_DEPTH)(x))
    tokens = x.reshape(batch, -1, width).astype(jnp.float32)
    return tokens.mean(axis=1)

  def _stack(self, name: str, depth: int) -> attention.Stack:
    return attention.Stack(
      attention.TokenBlock,
      dataclasses.replace(self.size, depth=depth),
      remat=self.remat,
      remat_policy=self.remat_policy,
      style=self.block,
      dtype=self.dtype,
      name=name,
    )

  def _norm(self, name: str) -> nn.LayerNorm:
    epsilon = self.block.norm_epsilon
    return nn.LayerNorm(epsilon=epsilon, dtype=self.dtype, name=name)
