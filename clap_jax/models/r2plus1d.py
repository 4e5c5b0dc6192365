"""Defines R(2+1)D: residual networks of factorised space-time convolutions.

Source: Tran et al., "A Closer Look at Spatiotemporal Convolutions for Action
Recognition", and torchvision (18 layers) and TSP with IG-65M (34 layers) for
details that public weights depend on.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import ad_checkpoint

from clap_jax.models import attention, batch_norm, frames, variants
from clap_jax.ops import convolution


class Convolution(nn.Module):
  """Factorised convolution without bias: kernel (kt, kh, kw, in, out)."""

  features: int
  sides: tuple[int, int, int]
  strides: tuple[int, int, int] = (1, 1, 1)
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    # As in He et al.: by the fan-out.
    init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
    shape = (*self.sides, x.shape[-1], self.features)
    kernel = self.param("kernel", init, shape)
    y = convolution.convolve(
      x.astype(self.dtype), kernel.astype(self.dtype), self.strides
    )
    return ad_checkpoint.checkpoint_name(y, convolution.RESULT)


class FactorisedConvolution(nn.Module):
  """3 x 3 over space, norm, ReLU, then 3 over time.

  Attributes:
    features: output width.
    mid_features: width between both convolutions.
    stride: stride of both convolutions.
    norm: keyword arguments of BatchNorm.
  """

  features: int
  mid_features: int
  stride: int
  norm: Any
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    step = self.stride
    x = Convolution(
      self.mid_features,
      (1, 3, 3),
      (1, step, step),
      dtype=self.dtype,
      name="spatial",
    )(x)
    x = _norm(self, "spatial_norm")(x, train=train)
    return Convolution(
      self.features, (3, 1, 1), (step, 1, 1), dtype=self.dtype, name="temporal"
    )(jax.nn.relu(x))


class ResidualBlock(nn.Module):
  """Two factorised convolutions with a shortcut."""

  features: int
  stride: int
  mid_widths: tuple[int, int]
  norm: Any
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    def factorised(y, index, stride):
      return FactorisedConvolution(
        self.features,
        self.mid_widths[index],
        stride,
        self.norm,
        dtype=self.dtype,
        name=f"conv{index + 1}",
      )(y, train=train)

    y = _norm(self, "norm1")(factorised(x, 0, self.stride), train=train)
    y = _norm(self, "norm2")(factorised(jax.nn.relu(y), 1, 1), train=train)
    if self.stride > 1 or x.shape[-1] != self.features:
      x = Convolution(
        self.features,
        (1, 1, 1),
        (self.stride, self.stride, self.stride),
        dtype=self.dtype,
        name="shortcut",
      )(x)
      x = _norm(self, "shortcut_norm")(x, train=train)
    return jax.nn.relu(x + y)


class R2Plus1D(nn.Module):
  """Encodes clips uint8 (b, t, height, width, 3) to float32 (b, d).

  Attributes:
    size: blocks, widths and the details of the norms.
    norm_groups: see `num_groups` of batch_norm.BatchNorm.
    remat: whether to recompute activations by block in the backward pass.
    remat_policy: a key of attention.REMAT_POLICIES.
    dtype: computation dtype; the result and all statistics are float32.
  """

  size: variants.R2Plus1DSize
  norm_groups: int = 1
  remat: bool = False
  remat_policy: str = "nothing"
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, clips: jax.Array, *, train: bool = False) -> jax.Array:
    size = self.size
    norm = {
      "momentum": size.norm_momentum,
      "epsilon": size.norm_epsilon,
      "num_groups": self.norm_groups,
    }
    x = frames.KINETICS(clips, self.dtype)
    x = Stem(size.stem_widths, norm, dtype=self.dtype, name="stem")(
      x, train=train
    )
    block_class = ResidualBlock
    if self.remat:
      block_class = nn.remat(
        ResidualBlock,
        prevent_cse=True,
        static_argnums=(2,),
        policy=attention.REMAT_POLICIES[self.remat_policy],
      )
    for layer, (depth, width) in enumerate(
      zip(size.depths, size.widths, strict=True)
    ):
      for index in range(depth):
        stride = 2 if layer and not index else 1
        x = block_class(
          width,
          stride,
          size.mid_widths(x.shape[-1], width),
          norm,
          dtype=self.dtype,
          name=f"layer{layer + 1}_block{index}",
        )(x, train)
    return x.astype(jnp.float32).mean(axis=(1, 2, 3))


class Stem(nn.Module):
  """7 x 7 over space at half resolution, then 3 over time."""

  widths: tuple[int, int]
  norm: Any
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    mid, features = self.widths
    x = Convolution(
      mid, (1, 7, 7), (1, 2, 2), dtype=self.dtype, name="spatial"
    )(x)
    x = jax.nn.relu(_norm(self, "spatial_norm")(x, train=train))
    x = Convolution(features, (3, 1, 1), dtype=self.dtype, name="temporal")(x)
    return jax.nn.relu(_norm(self, "temporal_norm")(x, train=train))


def _norm(module, name: str) -> batch_norm.BatchNorm:
  return batch_norm.BatchNorm(**module.norm, dtype=module.dtype, name=name)
