"""Defines prediction heads over pyramid points, shared by all levels."""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from clap_jax.models.pyramid import Level, drop_gaps
from clap_jax.models.temporal_layers import Conv1d
from clap_jax.ops.points import PointPredictions, pyramid_points


@dataclasses.dataclass(frozen=True)
class HeadConfig:
  """Hyper-parameters of the class and the boundary head.

  Attributes:
    num_convs: number of hidden convolutions of each head.
    kernel_size: kernel size of the heads' convolutions; odd.
    prior_probability: probability of each class at the first step, in (0, 1).
    dropout_rate: dropout rate before the last convolution of the class head.
  """

  num_convs: int = 2
  kernel_size: int = 3
  prior_probability: float = 0.01
  dropout_rate: float = 0.0

  def __post_init__(self):
    if not 0 < self.prior_probability < 1:
      raise ValueError(
        f"prior_probability must be in (0, 1), got {self.prior_probability}."
      )
    if self.kernel_size % 2 == 0:
      raise ValueError(f"kernel_size must be odd, got {self.kernel_size}.")

  @property
  def gap(self) -> int:
    """Returns the number of masked steps that separate joined levels."""
    return self.kernel_size // 2


class ConvHead(nn.Module):
  """Convolutions with LayerNorm and ReLU, then one to the outputs."""

  num_outputs: int
  config: HeadConfig
  dropout_rate: float = 0.0
  kernel_init: Any = nn.initializers.lecun_normal()
  bias_init: Any = nn.initializers.zeros_init()

  @nn.compact
  def __call__(
    self,
    x: jax.Array,  # (b, t, d)
    mask: jax.Array,  # bool (b, t)
    *,
    deterministic: bool,
  ) -> jax.Array:  # float32 (b, t, num_outputs)
    size = self.config.kernel_size
    for i in range(self.config.num_convs):
      x = Conv1d(x.shape[-1], size, name=f"conv_{i}")(x, mask)
      x = nn.relu(nn.LayerNorm(name=f"norm_{i}")(x))
    x = nn.Dropout(self.dropout_rate, deterministic=deterministic)(x)
    return Conv1d(
      self.num_outputs,
      size,
      kernel_init=self.kernel_init,
      bias_init=self.bias_init,
      name="out",
    )(x, mask)


class PointHead(nn.Module):
  """Predicts class logits and boundary distances from joined pyramid levels.

  Distances are softplus(scale of the level * output) strides: never negative,
  with a gradient everywhere. Logits and offsets outside the mask are undefined.

  Attributes:
    num_classes: number of outputs of the class head.
    num_levels: number of levels of the pyramid.
    range_factor: see `PyramidConfig`.
  """

  num_classes: int
  num_levels: int
  range_factor: float
  config: HeadConfig

  @nn.compact
  def __call__(
    self,
    joined: Level,
    *,
    num_steps: int,
    deterministic: bool,
  ) -> PointPredictions:
    prior = self.config.prior_probability
    logits = ConvHead(
      self.num_classes,
      self.config,
      dropout_rate=self.config.dropout_rate,
      # Small weights: the bias determines the first step's probabilities.
      kernel_init=nn.initializers.normal(0.01),
      bias_init=nn.initializers.constant(math.log(prior / (1 - prior))),
      name="class_head",
    )(*joined, deterministic=deterministic)
    raw = ConvHead(
      2,
      self.config,
      # About one stride to each side at the first step.
      bias_init=nn.initializers.constant(0.5),
      name="offset_head",
    )(*joined, deterministic=deterministic)
    scale = self.param("scale", nn.initializers.ones_init(), (self.num_levels,))
    shape = {
      "num_steps": num_steps,
      "num_levels": self.num_levels,
      "gap": self.config.gap,
    }
    points = pyramid_points(
      num_steps, num_levels=self.num_levels, range_factor=self.range_factor
    )
    strides = nn.softplus(
      drop_gaps(raw, **shape) * scale[points.level][None, :, None]
    )
    return PointPredictions(
      class_logits=drop_gaps(logits, **shape),
      offsets=strides * points.stride[None, :, None],
      points=jax.tree.map(jnp.asarray, points),
      point_mask=drop_gaps(joined.mask, **shape),
    )
