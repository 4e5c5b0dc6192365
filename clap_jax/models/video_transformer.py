"""Defines a factorised space-time video transformer over tubelets."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from clap_jax.models import attention, layers, variants
from clap_jax.models import frames as frames_lib


def tubelets(frames: jax.Array, patch: tuple[int, int, int]) -> jax.Array:
  """Cuts clips into tubelets: (b, t, y, x, c) -> (b, t', s, values).

  Raises:
    ValueError: a side of the clip is not a multiple of the tubelet's.
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


class MotionEmbed(nn.Module):
  """Embeds tubelets of colours and of motion by one linear layer.

  Each pixel has two inputs: its colour in [-1, 1], halved, and `gain` times its
  difference from the clip's mean. The second emphasises motion before any
  weight is learned: still objects vanish from it. In short trainings the tower
  otherwise learns appearance only.

  Colour is the mean plus the difference, so the layer is one product with the
  differences and one with the mean, a single frame: half the work of stacking
  both kinds of channels.

  Attributes:
    features: output width.
    patch: tubelet sides in frames and pixels (time, height, width).
    gain: factor of the differences.
    dtype: computation dtype; parameters are float32.
  """

  features: int
  patch: tuple[int, int, int]
  gain: float
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, frames: jax.Array) -> jax.Array:
    """Embeds [0, 255] (b, t, height, width, 3) to (b, t', s, features)."""
    # Integers add up faster and exactly.
    wide = jnp.promote_types(frames.dtype, jnp.int32)
    mean = frames.sum(axis=1, keepdims=True, dtype=wide) / frames.shape[1]
    motion = ((frames - mean) / 127.5).astype(self.dtype)
    motion = tubelets(motion, self.patch)
    still = (mean / 127.5 - 1.0).astype(self.dtype)
    still = tubelets(still, (1, *self.patch[1:]))
    num_values = motion.shape[-1]
    kernel = self.param(
      "kernel",
      nn.initializers.lecun_normal(),
      (2 * num_values, self.features),
    )
    bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
    # Rows: frame, row, column, kind of channel, colour.
    kernel = kernel.reshape(self.patch[0], -1, 2, 3, self.features)
    of_colour, of_motion = 0.5 * kernel[:, :, 0], self.gain * kernel[:, :, 1]

    def product(x, weights):
      weights = weights.reshape(x.shape[-1], -1)
      return layers.flat_product(x, weights, dtype=self.dtype)

    return (
      product(motion, of_colour + of_motion)
      + product(still, of_colour.sum(axis=0))
      + bias.astype(self.dtype)
    )


@dataclasses.dataclass(frozen=True)
class VideoStyle:
  """Architecture of a video transformer, except its size."""

  block: variants.BlockStyle = variants.PLAIN_BLOCK
  factorised: bool = True  # attention over space, then time; else over all
  class_token: bool = False  # one more token at each time step
  embedding_norm: bool = False  # before the first block
  embedding_bias: bool = True
  learned_positions: bool = True  # else fixed sines over all tokens
  pool: str = "attention"  # or "class": the class tokens, or "mean": all tokens
  # None: [-1, 1], and motion where the tower has a motion_gain
  colours: frames_lib.ColourScale | None = None


# By name of the tower: our own, and those whose weights can be imported.
_CLIP = VideoStyle(
  variants.BlockStyle("quick_gelu", norm_epsilon=1e-5),
  class_token=True,
  embedding_norm=True,
  embedding_bias=False,
  pool="class",
  colours=frames_lib.CLIP,
)
STYLES = {
  "transformer": VideoStyle(),
  # CLIP's image tower with added attention over time. After the import that
  # attention is zero, and the tower computes the mean over images.
  "clip": _CLIP,
  "open_clip": dataclasses.replace(
    _CLIP, block=variants.BlockStyle("gelu", norm_epsilon=1e-5)
  ),
  # Tong et al., "VideoMAE", fine-tuned: the mean of all tokens, then the norm.
  "videomae": VideoStyle(
    variants.BlockStyle("gelu", norm_epsilon=1e-6),
    factorised=False,
    learned_positions=False,
    pool="mean",
    colours=frames_lib.IMAGENET,
  ),
}


class VideoTransformer(nn.Module):
  """Encodes clips uint8 (b, t, height, width, 3) to float32 (b, d).

  A clip of another length than `num_frames` gets interpolated positions in
  time.

  Attributes:
    size: width, depth and number of heads.
    patch: tubelet sides in frames and pixels (time, height, width).
    num_frames: clip length for which positions in time are learned; None for
      that of the given clips, which then must not vary.
    motion_gain: `gain` of MotionEmbed; 0 for colours only.
    style: see `VideoStyle`.
    remat: whether to recompute activations by block in the backward pass.
    remat_policy: a key of attention.REMAT_POLICIES.
    dtype: computation dtype; the result is float32.
  """

  size: variants.TransformerSize
  patch: tuple[int, int, int]
  num_frames: int | None = None
  motion_gain: float = 0.0
  style: VideoStyle = VideoStyle()
  remat: bool = False
  remat_policy: str = "nothing"
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, frames: jax.Array, *, train: bool = False) -> jax.Array:
    del train  # has no effect here
    style = self.style
    x = self._embedded(frames)
    if style.class_token:
      x = self._with_class_token(x)
    x = x + self._positions(x).astype(self.dtype)
    if style.embedding_norm:
      x = self._norm("embedding_norm")(x)
    shape = x.shape
    if not style.factorised:
      x = x.reshape(shape[0], -1, shape[-1])
    x = attention.Stack(
      attention.SpaceTimeBlock if style.factorised else attention.TokenBlock,
      self.size,
      remat=self.remat,
      remat_policy=self.remat_policy,
      style=style.block,
      dtype=self.dtype,
      name="blocks",
    )(x)
    return self._pooled(x.reshape(shape)).astype(jnp.float32)

  def _embedded(self, frames):  # (b, t, height, width, 3) -> (b, t', s, d)
    style, width = self.style, self.size.width
    if self.motion_gain and style.colours is not None:
      raise ValueError(
        f"motion_gain is {self.motion_gain}, but this tower's weights take "
        "colours only: set it to 0."
      )
    if self.motion_gain:
      return MotionEmbed(
        width, self.patch, self.motion_gain, dtype=self.dtype, name="embed"
      )(frames)
    colours = style.colours or frames_lib.SIGNED
    return layers.Dense(
      width, use_bias=style.embedding_bias, dtype=self.dtype, name="embed"
    )(tubelets(colours(frames, self.dtype), self.patch))

  def _with_class_token(self, x):  # (b, t, s, d) -> (b, t, 1 + s, d)
    token = self.param(
      "class_token", nn.initializers.normal(0.02), (self.size.width,)
    )
    token = jnp.broadcast_to(
      token.astype(x.dtype), (*x.shape[:2], 1, x.shape[-1])
    )
    return jnp.concatenate([token, x], axis=2)

  def _positions(self, x) -> jax.Array:  # (b, t, s, d) -> (t or 1, s or 1, d)
    _, num_steps, num_places, width = x.shape
    if not self.style.learned_positions:
      table = interleaved_positions(num_steps * num_places, width)
      return table.reshape(num_steps, num_places, width)
    init = nn.initializers.normal(0.02)
    space = self.param("space_positions", init, (num_places, width))
    learned = num_steps
    if self.num_frames is not None:
      learned = self.num_frames // self.patch[0]
    time = self.param("time_positions", init, (learned, 1, width))
    if num_steps != learned:
      time = jax.image.resize(time, (num_steps, 1, width), "linear")
    return space + time

  def _pooled(self, x):  # (b, t, s, d) -> (b, d)
    norm = self._norm("norm")
    if self.style.pool == "class":
      return norm(x[:, :, 0]).mean(axis=1)
    if self.style.pool == "mean":
      return norm(x.mean(axis=(1, 2)))
    x = norm(x).reshape(x.shape[0], -1, x.shape[-1])
    pooled = attention.AttentionPool(
      self.size.num_heads, dtype=self.dtype, name="pool"
    )(x)
    return pooled + x.mean(axis=1)

  def _norm(self, name: str) -> nn.LayerNorm:
    epsilon = self.style.block.norm_epsilon
    return nn.LayerNorm(epsilon=epsilon, dtype=self.dtype, name=name)


def interleaved_positions(length: int, width: int) -> jax.Array:
  """Returns sines at even, cosines at odd indices: (length, width); width even.

  As in VideoMAE; `layers.sinusoidal_positions` with interleaved halves.
  """
  halves = layers.sinusoidal_positions(length, width)
  halves = halves.reshape(length, 2, width // 2)
  return jnp.swapaxes(halves, 1, 2).reshape(length, width)
