"""A factorised space-time video transformer over tubelets."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from clap_jax.models import attention, layers, variants


def tubelets(frames: jax.Array, patch: tuple[int, int, int]) -> jax.Array:
  """Cuts clips into tubelets: (b, t, y, x, c) -> (b, t', s, values).

  Raises:
    ValueError: if a side of the clip is no multiple of the tubelet's.
  """
  batch, *sides, channels = frames.shape
  for name, side, step in zip(
    ("frames", "height", "width"), sides, patch, strict=True
  ):
    if side % step:
      raise ValueError(
        f"A clip's {name} must be a multiple of the tubelet's: got "
        f"{side} and {step}. Change `patch` or the clip's size."
      )
  t, y, x = (side // step for side, step in zip(sides, patch, strict=True))
  cut = frames.reshape(batch, t, patch[0], y, patch[1], x, patch[2], channels)
  cut = cut.transpose(0, 1, 3, 5, 2, 4, 6, 7)
  return cut.reshape(batch, t, y * x, -1)


def clip_channels(frames: jax.Array, *, motion_gain: float) -> jax.Array:
  """Colours in [-1, 1], and beside them what differs from the clip's mean.

  The second half makes motion stand out before any weight is learned: a still
  sprite vanishes from it, a moving one does not. Trained for minutes rather
  than days, the tower otherwise stays on looks.

  Args:
    frames: float (b, t, height, width, 3) in [0, 255].
    motion_gain: factor on the differences; 0 leaves them out.

  Returns:
    (b, t, height, width, 3), or 6 channels with differences.
  """
  colours = frames / 127.5 - 1.0
  if not motion_gain:
    return colours
  motion = colours - colours.mean(axis=1, keepdims=True)
  return jnp.concatenate([0.5 * colours, motion_gain * motion], axis=-1)


class VideoTransformer(nn.Module):
  """Clips to features: uint8 (b, t, height, width, 3) -> float32 (b, d).

  Attributes:
    size: width, depth, heads.
    patch: tubelet sides in frames and pixels (time, height, width).
    motion_gain: see clip_channels.
    remat: recompute activations block by block in the backward pass.
    dtype: computation dtype; the result is float32.
  """

  size: variants.TransformerSize
  patch: tuple[int, int, int]
  motion_gain: float = 0.0
  remat: bool = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, frames: jax.Array, *, train: bool = False) -> jax.Array:
    del train  # nothing here differs in training
    x = clip_channels(frames.astype(self.dtype), motion_gain=self.motion_gain)
    x = tubelets(x, self.patch)
    _, t, s, _ = x.shape
    x = layers.Dense(self.size.width, dtype=self.dtype, name="embed")(x)
    init = nn.initializers.normal(0.02)
    space = self.param("space_positions", init, (s, self.size.width))
    time = self.param("time_positions", init, (t, 1, self.size.width))
    x = x + (space + time).astype(self.dtype)
    x = attention.Stack(
      attention.SpaceTimeBlock,
      self.size,
      remat=self.remat,
      dtype=self.dtype,
      name="blocks",
    )(x)
    x = nn.LayerNorm(dtype=self.dtype, name="norm")(x)
    x = x.reshape(x.shape[0], t * s, self.size.width)
    pooled = attention.AttentionPool(
      self.size.num_heads, dtype=self.dtype, name="pool"
    )(x)
    return (pooled + x.mean(axis=1)).astype(jnp.float32)
