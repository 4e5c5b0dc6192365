"""Normalises colours as a tower's weights expect."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class ColourScale:
  """Mean and deviation of red, green, blue (maximum 1) that weights expect."""

  mean: tuple[float, float, float]
  std: tuple[float, float, float]

  def __call__(self, frames: jax.Array, dtype) -> jax.Array:
    """Standardises uint8 (b, t, height, width, 3); keeps the shape."""
    mean = 255.0 * np.asarray(self.mean, np.float32)
    std = 255.0 * np.asarray(self.std, np.float32)
    return ((frames.astype(jnp.float32) - mean) / std).astype(dtype)


# Kinetics-400, for torchvision's video models, IG-65M and TSP.
KINETICS = ColourScale(
  mean=(0.43216, 0.394666, 0.37645), std=(0.22803, 0.22145, 0.216989)
)
# ImageNet, for VideoMAE.
IMAGENET = ColourScale(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
# OpenAI's CLIP and open_clip.
CLIP = ColourScale(
  mean=(0.48145466, 0.4578275, 0.40821073),
  std=(0.26862954, 0.26130258, 0.27577711),
)
# [0, 1], for VideoPrism.
UNIT = ColourScale(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
# [-1, 1], for towers trained from random parameters.
SIGNED = ColourScale(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
