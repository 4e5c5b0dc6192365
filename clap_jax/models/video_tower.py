"""Video towers by name: every one takes clips and returns one vector each."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from clap_jax.models import r2plus1d, variants, video_transformer

TRANSFORMER = "transformer"
NAMES = (TRANSFORMER, *variants.R2PLUS1D_SIZES)


def make(config: Any, *, name: str | None = None) -> nn.Module:
  """The module (uint8 clips (b, t, y, x, 3), *, train) -> float32 (b, d).

  Args:
    config: a dual_encoder.DualEncoderConfig.
    name: of the module, where the caller is not a `setup`.

  Raises:
    ValueError: listing the choices, for an unknown tower or size.
  """
  dtype = jnp.dtype(config.dtype)
  if config.video_tower in variants.R2PLUS1D_SIZES:
    return r2plus1d.R2Plus1D(
      variants.R2PLUS1D_SIZES[config.video_tower],
      norm_groups=config.batch_norm_groups,
      remat=config.remat,
      dtype=dtype,
      name=name,
    )
  if config.video_tower != TRANSFORMER:
    raise ValueError(
      f"Unknown video tower {config.video_tower!r}; choose from "
      f"{', '.join(NAMES)}."
    )
  return video_transformer.VideoTransformer(
    variants.named_size(variants.VIDEO_SIZES, config.video_size),
    patch=config.patch,
    motion_gain=config.motion_gain,
    remat=config.remat,
    dtype=dtype,
    name=name,
  )


def is_patched(video_tower: str) -> bool:
  """Whether a tower cuts its clips into `patch`, which must then divide them."""
  return video_tower not in variants.R2PLUS1D_SIZES
