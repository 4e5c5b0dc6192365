"""Defines the multi-scale trunk: features of a video at strides 1, 2, 4, ..."""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from clap_jax.models.layers import Dense, sinusoidal_positions
from clap_jax.models.temporal_layers import AttentionBlock, Conv1d, ConvBlock
from clap_jax.ops.masking import keep
from clap_jax.ops.points import level_sizes

BLOCKS = ("attention", "conv")


@dataclasses.dataclass(frozen=True)
class PyramidConfig:
  """Hyper-parameters of the trunk.

  Attributes:
    width: channels of every level; even.
    num_levels: number of levels, of stride 1, 2, ..., 2^(num_levels - 1).
    range_factor: a level predicts segments whose farther boundary is up to
      range_factor strides away.
    block: "attention" (local windows) or "conv".
    num_stem_convs: number of three-step convolutions after the projection.
    num_stem_blocks: number of blocks at stride 1; each coarser level has one.
    window_steps: number of steps that attention or convolution sees; odd.
    num_heads: number of attention heads; must divide the width.
    mlp_ratio: hidden width of the MLPs over their outer width.
    dropout_rate: dropout rate in the blocks and after the projection.
    use_positions: whether to add sine codes of absolute time.
    normalize_input: whether to normalize each input vector (LayerNorm). Disable
      it for features whose length or mean is informative, and standardize those
      over the training set.
  """

  width: int = 128
  num_levels: int = 4
  range_factor: float = 4.0
  block: str = "attention"
  num_stem_convs: int = 2
  num_stem_blocks: int = 1
  window_steps: int = 19
  num_heads: int = 4
  mlp_ratio: float = 2.0
  dropout_rate: float = 0.1
  use_positions: bool = False
  normalize_input: bool = True

  def __post_init__(self):
    if self.block not in BLOCKS:
      raise ValueError(f"block must be one of {BLOCKS}, got {self.block!r}.")
    if self.window_steps % 2 == 0 or self.window_steps < 3:
      raise ValueError(
        f"window_steps must be odd and at least 3, got {self.window_steps}."
      )
    if self.num_levels < 1:
      raise ValueError(f"num_levels must be >= 1, got {self.num_levels}.")

  def check_heads(self, counts: Mapping[str, int]) -> None:
    """Raises a ValueError unless all counts of heads divide the width.

    Args:
      counts: number of attention heads by config key.
    """
    for name, count in counts.items():
      if min(count, self.width) < 1 or self.width % count:
        raise ValueError(
          f"{name} is {count}, which does not divide pyramid.width "
          f"{self.width}."
        )


class Level(NamedTuple):
  """One level of a pyramid."""

  features: jax.Array  # (b, t / stride, d), zero outside the mask
  mask: jax.Array  # bool (b, t / stride)


class Pyramid(nn.Module):
  """Maps features (b, t, d_in) to levels (b, ceil(t / 2^l), width).

  Step i of level l is centred on step i * 2^l of the input, and valid if that
  step is. Padded input steps have no effect, even if they are not finite.
  """

  config: PyramidConfig

  @nn.compact
  def __call__(
    self,
    features: jax.Array,  # (b, t, d_in)
    mask: jax.Array,  # bool (b, t)
    *,
    deterministic: bool = True,
  ) -> tuple[Level, ...]:
    config = self.config
    x = self._stem(keep(features, mask), mask, deterministic=deterministic)
    for i in range(config.num_stem_blocks):
      x = self._block(f"stem_block_{i}")(x, mask, deterministic=deterministic)
    levels = []
    for level in range(config.num_levels):
      if level:
        x = Conv1d(config.width, stride=2, name=f"down_{level}")(
          nn.LayerNorm(name=f"down_norm_{level}")(x), mask
        )
        mask = mask[:, ::2]
        x = self._block(f"block_{level}")(x, mask, deterministic=deterministic)
      y = nn.LayerNorm(name=f"level_norm_{level}")(x)
      levels.append(Level(keep(y, mask), mask))
    return tuple(levels)

  def _stem(self, x, mask, *, deterministic):
    config = self.config
    if config.normalize_input:
      x = nn.LayerNorm(name="input_norm")(x)
    x = Dense(config.width, name="project")(x)
    x = nn.Dropout(config.dropout_rate, deterministic=deterministic)(x)
    for i in range(config.num_stem_convs):
      x = Conv1d(config.width, name=f"stem_{i}")(x, mask)
      x = nn.LayerNorm(name=f"stem_norm_{i}")(x)
      x = nn.relu(x)
    if config.use_positions:
      codes = sinusoidal_positions(x.shape[1], config.width)
      x = x + codes[None]
    return keep(x, mask)

  def _block(self, name):
    config = self.config
    shared = {
      "mlp_ratio": config.mlp_ratio,
      "dropout_rate": config.dropout_rate,
      "name": name,
    }
    if config.block == "conv":
      return ConvBlock(config.window_steps, **shared)
    return AttentionBlock(config.num_heads, config.window_steps // 2, **shared)


def join_levels(levels: tuple[Level, ...], *, gap: int) -> Level:
  """Concatenates the levels, with `gap` masked steps after each.

  A layer that sees at most `gap` steps to each side and respects the mask then
  treats every level separately, in one product instead of several.
  """
  parts, masks = [], []
  for level in levels:
    parts.append(jnp.pad(level.features, ((0, 0), (0, gap), (0, 0))))
    masks.append(jnp.pad(level.mask, ((0, 0), (0, gap))))
  return Level(jnp.concatenate(parts, axis=1), jnp.concatenate(masks, axis=1))


def drop_gaps(
  x: jax.Array, *, num_steps: int, num_levels: int, gap: int
) -> jax.Array:
  """Removes the gaps of `join_levels`: (b, joined, ...) -> (b, p, ...)."""
  parts, start = [], 0
  for size in level_sizes(num_steps, num_levels=num_levels):
    parts.append(x[:, start : start + size])
    start += size + gap
  if start != x.shape[1]:
    raise ValueError(
      f"The joined levels of {num_steps} steps have {start} places, got "
      f"{x.shape[1]}; pass the num_steps and gap that they were joined with."
    )
  return jnp.concatenate(parts, axis=1)
