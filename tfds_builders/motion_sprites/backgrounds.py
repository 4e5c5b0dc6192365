"""Renders textured backdrops with camera motion."""

import dataclasses

import numpy as np

TEXTURES = ("cloudy", "striped", "checkered", "dotted", "grainy")
# Textures are stored at twice the resolution, so that the camera moves in
# half pixels without interpolation, and repeat without a seam.
SUPERSAMPLE = 2
TEXTURE_SIDE = 256


@dataclasses.dataclass
class Camera:
  """Motion of the camera and the light per frame; lengths in frame units."""

  offset: np.ndarray  # (n, 2) x, y displacement of everything in view
  scroll: np.ndarray  # (n, 2) further displacement of the backdrop alone
  brightness: np.ndarray  # (n,) factor
  backdrop: np.ndarray  # (n,) index of the texture in view


def _smooth_noise(rng, low, high):
  """Makes periodic noise in [0, 1] with wave numbers from low to high."""
  side = TEXTURE_SIDE
  spectrum = np.fft.rfft2(rng.standard_normal((side, side)))
  rate = np.hypot(
    np.fft.fftfreq(side)[:, None] * side, np.fft.rfftfreq(side)[None, :] * side
  )
  spectrum *= (rate >= low) & (rate <= high)
  noise = np.fft.irfft2(spectrum, s=(side, side))
  return np.clip(0.5 + noise / (4 * noise.std() + 1e-9), 0.0, 1.0)


def _pattern(rng, name):
  """Makes a periodic (side, side) pattern in [0, 1]."""
  side = TEXTURE_SIDE
  y, x = np.mgrid[:side, :side] / side
  if name == "cloudy":
    return _smooth_noise(rng, 1, 9)
  if name == "grainy":
    return _smooth_noise(rng, 8, 40)
  cycles = int(rng.integers(4, 9))
  if name == "striped":
    across = int(rng.integers(-6, 7))
    return 0.5 + 0.5 * np.sin(2 * np.pi * (cycles * x + across * y))
  waves = np.sin(2 * np.pi * cycles * x) * np.sin(2 * np.pi * cycles * y)
  if name == "checkered":
    return np.clip(0.5 + 4 * waves, 0.0, 1.0)
  return np.clip(6 * (np.abs(waves) - 0.55), 0.0, 1.0)  # dotted


def make_texture(rng: np.random.Generator, name: str) -> np.ndarray:
  """Makes a muted texture by name: uint8 (TEXTURE_SIDE, TEXTURE_SIDE, 3)."""
  pattern = 0.75 * _pattern(rng, name) + 0.25 * _smooth_noise(rng, 2, 24)
  base = rng.uniform(45, 115)
  ends = base + rng.uniform(-22, 22, (2, 3))
  ends[1] += rng.choice([-1, 1]) * rng.uniform(18, 38)
  image = ends[0] + pattern[..., None] * (ends[1] - ends[0])
  return np.clip(image, 0, 255).astype(np.uint8)


def view_texture(
  texture: np.ndarray, shift_px: np.ndarray, *, size_px: int
) -> np.ndarray:
  """Crops the texture at displacements (n, 2) in pixels: (n, s, s, 3)."""
  steps = np.arange(size_px) * SUPERSAMPLE
  corner = np.round(shift_px * SUPERSAMPLE).astype(np.int64)
  columns = (steps - corner[:, 0:1]) % TEXTURE_SIDE
  rows = (steps - corner[:, 1:2]) % TEXTURE_SIDE
  return texture[rows[:, :, None], columns[:, None, :]]


def still_camera(
  rng: np.random.Generator, num_frames: int, *, fps: float
) -> Camera:
  """Returns a fixed camera before a slowly scrolling backdrop."""
  velocity = rng.uniform(-4.0, 4.0, 2)
  scroll = np.arange(num_frames)[:, None] / fps * velocity
  return Camera(
    np.zeros((num_frames, 2)),
    scroll + rng.uniform(0, 128, 2),
    np.ones(num_frames),
    np.zeros(num_frames, np.int64),
  )


def add_pan(
  camera: Camera, rng: np.random.Generator, start: int, end: int
) -> tuple[float, float]:
  """Adds a pan out and back between two frames; returns its direction."""
  angle = rng.integers(4) * np.pi / 2
  way = np.round(np.array([np.cos(angle), np.sin(angle)]))
  bump = 0.5 - 0.5 * np.cos(2 * np.pi * np.linspace(0, 1, end - start))
  camera.offset[start:end] -= rng.uniform(8, 12) * bump[:, None] * way
  return float(way[0]), float(way[1])


def add_tremble(
  camera: Camera, rng: np.random.Generator, start: int, end: int
) -> None:
  """Adds jitter of the picture between two frames."""
  camera.offset[start:end] += rng.normal(0, 1.6, (end - start, 2))


def add_flicker(
  camera: Camera, rng: np.random.Generator, start: int, end: int
) -> None:
  """Adds flicker of the light between two frames."""
  camera.brightness[start:end] *= rng.uniform(0.6, 1.25, end - start)
