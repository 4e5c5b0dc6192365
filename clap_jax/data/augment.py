"""Augments clips; all frames of a clip change in the same way."""

import dataclasses

import numpy as np

from clap_jax import config as config_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class AugmentOptions:
  """Options of augmentation; do not flip if texts name directions."""

  # Up to this many pixels, the edge repeated.
  shift_px: int = config_lib.ranged(default=0, minimum=0)
  flip_probability: float = config_lib.ranged(
    default=0.0, minimum=0.0, maximum=1.0
  )
  # Up to this fraction of 255 added or taken.
  brightness: float = config_lib.ranged(default=0.0, minimum=0.0)
  # Gains of all channels, and of each, in [1 - x, 1 + x].
  contrast: float = config_lib.ranged(default=0.0, minimum=0.0)
  colour: float = config_lib.ranged(default=0.0, minimum=0.0)

  def __post_init__(self):
    for name in ("brightness", "contrast", "colour"):
      if not getattr(self, name) < 1:
        raise ValueError(f"{name} must be below 1, got {getattr(self, name)}.")


def augment_clip(
  frames: np.ndarray, options: AugmentOptions, *, seed: int
) -> np.ndarray:
  """Augments uint8 (t, h, w, 3); a pure function of its arguments.

  The number of random draws does not depend on the options, so that enabling
  one does not change the random choices of the others.
  """
  rng = np.random.Generator(np.random.PCG64(seed))
  down, right, flip, bright, gain = rng.random(5)
  channel_gains = rng.random(3)
  frames = _shift(frames, options.shift_px, down=down, right=right)
  if flip < options.flip_probability:
    frames = frames[:, :, ::-1]
  gains = 1 + options.contrast * (2 * gain - 1)
  gains = gains * (1 + options.colour * (2 * channel_gains - 1))
  offset = options.brightness * (2 * bright - 1) * 255
  return _recolour(frames, gains, offset)


def cut_at_random(frames: np.ndarray, size: int, *, seed: int) -> np.ndarray:
  """Cuts the same random square of `size` px from all frames (t, h, w, 3)."""
  height, width = frames.shape[1:3]
  # A separate stream: `augment_clip` draws from that of the bare seed.
  down, right = np.random.Generator(np.random.PCG64((seed, 1))).random(2)
  top = int(down * (height - size + 1))
  left = int(right * (width - size + 1))
  return frames[:, top : top + size, left : left + size]


def _shift(
  frames: np.ndarray, limit_px: int, *, down: float, right: float
) -> np.ndarray:
  if not limit_px:
    return frames
  height, width = frames.shape[1:3]
  rows = np.arange(height) + int(down * (2 * limit_px + 1)) - limit_px
  columns = np.arange(width) + int(right * (2 * limit_px + 1)) - limit_px
  rows = rows.clip(0, height - 1)
  columns = columns.clip(0, width - 1)
  return frames[:, rows][:, :, columns]


def _recolour(
  frames: np.ndarray, gains: np.ndarray, offset: float
) -> np.ndarray:
  """Recolours through a 256-entry table, much cheaper than float pixels."""
  if offset == 0 and np.all(gains == 1):
    return np.ascontiguousarray(frames)
  levels = np.arange(256, dtype=np.float64)
  tables = (levels - 127.5) * gains[:, None] + 127.5 + offset
  tables = np.rint(tables).clip(0, 255).astype(np.uint8)
  result = np.empty(frames.shape, np.uint8)
  for channel in range(frames.shape[-1]):
    result[..., channel] = tables[channel][frames[..., channel]]
  return result
