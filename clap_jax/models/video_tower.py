"""Builds video towers, which map each clip to one vector, by name."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from clap_jax.models import (
  r2plus1d,
  space_then_time,
  variants,
  video_transformer,
)

TRANSFORMER = "transformer"
SPACE_THEN_TIME = "videoprism"
NAMES = (
  *video_transformer.STYLES,
  SPACE_THEN_TIME,
  *variants.R2PLUS1D_SIZES,
)


def make(config: Any, *, name: str | None = None) -> nn.Module:
  """Builds a module (uint8 clips (b, t, y, x, 3), *, train) -> float32 (b, d).

  Args:
    config: a dual_encoder.DualEncoderConfig.
    name: name of the module, if the caller is not a `setup`.

  Raises:
    ValueError: the tower or size is unknown; lists the choices.
  """
  dtype = jnp.dtype(config.dtype)
  if config.video_tower in variants.R2PLUS1D_SIZES:
    return r2plus1d.R2Plus1D(
      variants.R2PLUS1D_SIZES[config.video_tower],
      norm_groups=config.batch_norm_groups,
      remat=config.remat,
      remat_policy=config.remat_policy,
      dtype=dtype,
      name=name,
    )
  size = variants.named_size(variants.VIDEO_SIZES, config.video_size)
  computed = {"attention": config.attention, "query_chunk": config.query_chunk}
  shared = {
    "patch": config.patch,
    "num_frames": config.num_frames,
    "remat": config.remat,
    "remat_policy": config.remat_policy,
    "dtype": dtype,
    "name": name,
  }
  if config.video_tower == SPACE_THEN_TIME:
    block = dataclasses.replace(space_then_time.BLOCK, **computed)
    return space_then_time.SpaceThenTime(size, block=block, **shared)
  style = variants.named(
    video_transformer.STYLES, config.video_tower, what="video tower"
  )
  block = dataclasses.replace(style.block, **computed)
  return video_transformer.VideoTransformer(
    size,
    style=dataclasses.replace(style, block=block),
    motion_gain=config.motion_gain,
    **shared,
  )


def is_patched(video_tower: str) -> bool:
  """Returns True if a tower cuts clips into `patch`, which must divide them."""
  return video_tower not in variants.R2PLUS1D_SIZES
