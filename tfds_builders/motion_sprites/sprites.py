"""Draws sprites over backdrops: whole chunks of frames at once, NumPy only."""

import dataclasses

import numpy as np

from tfds_builders.motion_sprites import backgrounds

FRAME_UNITS = 64.0  # lengths are in units of a frame 64 wide and high
CHUNK_FRAMES = 64  # drawn together, to bound memory
MARK_COLOUR = (25.0, 25.0, 25.0)

COLOURS = {
  "red": (225, 45, 40),
  "green": (50, 190, 60),
  "blue": (60, 95, 245),
  "yellow": (245, 225, 50),
  "pink": (250, 110, 190),
  "cyan": (60, 220, 225),
  "orange": (250, 145, 30),
  "white": (240, 240, 240),
}
OUTSIDE_COLOURS = {"grey": (150, 150, 150)}  # for bystanders
_PAINTS = COLOURS | OUTSIDE_COLOURS
SIZES = {"small": (7.0, 8.0), "large": (9.6, 10.6)}  # radius, frame units
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")

# Columns of a pose: position, clockwise angle, factor on the radius, log of
# the width's share in the stretch, opacity.
POSE_CHANNELS = ("x", "y", "angle", "scale", "stretch", "opacity")


@dataclasses.dataclass(frozen=True)
class Look:
  """The appearance of a sprite, constant through the video."""

  colour: str
  shape: str
  size: str
  radius: float  # frame units


def _star_gauge(u, v):
  """Returns the gauge of a five-pointed star."""
  sector = 2 * np.pi / 5
  angle = np.abs((np.arctan2(v, u) + sector / 2) % sector - sector / 2)
  distance = np.hypot(u, v)
  inner = np.float32(0.5)
  tip = np.array([1.15, 0.0])
  notch = 1.15 * inner * np.array([np.cos(sector / 2), np.sin(sector / 2)])
  normal = np.array([notch[1] - tip[1], tip[0] - notch[0]])
  normal /= normal @ tip
  return distance * (normal[0] * np.cos(angle) + normal[1] * np.sin(angle))


def _gauge(shape, u, v):
  """Returns the distance of a point, 1 on the edge of the shape."""
  if shape in ("circle", "ring"):
    return np.hypot(u, v)
  if shape == "square":
    return np.maximum(np.abs(u), np.abs(v)) * np.float32(1 / 0.85)
  if shape == "triangle":
    slanted = np.float32(0.5) * u + np.float32(np.sqrt(0.75)) * np.abs(v)
    return np.maximum(slanted, -u) * np.float32(1 / 0.62)
  if shape == "cross":
    u, v = np.abs(u), np.abs(v)
    return np.maximum(np.maximum(u, v), np.float32(1 / 0.36) * np.minimum(u, v))
  return _star_gauge(u, v)


def _coverage(gauge, edge_px):
  """Computes the share of a pixel inside from gauge and radius in pixels."""
  return np.clip((1.0 - gauge) * edge_px + 0.5, 0.0, 1.0)


def _sprite_patches(look, pose, *, unit_px, half):
  """Computes alpha and mark (n, k, k) around each frame's position."""
  x, y, angle, scale, stretch, opacity = pose.T.astype(np.float32)
  side = np.arange(-half, half + 1, dtype=np.float32)
  dx = side[None, None, :] - ((x * unit_px) % 1.0)[:, None, None]
  dy = side[None, :, None] - ((y * unit_px) % 1.0)[:, None, None]
  radius = (look.radius * unit_px * scale)[:, None, None]
  wide, tall = np.exp(stretch)[:, None, None], np.exp(-stretch)[:, None, None]
  cosine, sine = np.cos(angle)[:, None, None], np.sin(angle)[:, None, None]
  u = (cosine * dx + sine * dy) / (radius * wide)
  v = (cosine * dy - sine * dx) / (radius * tall)
  edge_px = radius * np.minimum(wide, tall)
  alpha = _coverage(_gauge(look.shape, u, v), edge_px)
  mark_at, mark_radius = 0.42, 0.27
  if look.shape == "ring":
    alpha = alpha * (1 - _coverage(np.hypot(u, v) / 0.48, 0.48 * edge_px))
    mark_at, mark_radius = 0.72, 0.25
  mark = _coverage(
    np.hypot(u - np.float32(mark_at), v) / mark_radius, mark_radius * edge_px
  )
  return alpha * opacity[:, None, None], mark


def _blend(canvas, look, pose, *, unit_px, margin):
  """Draws one sprite into a padded float32 canvas (n, s + 2m, s + 2m, 3)."""
  reach = look.radius * unit_px * np.exp(np.abs(pose[:, 4])) * pose[:, 3]
  half = min(margin - 1, int(np.ceil(1.25 * reach.max())) + 1)
  alpha, mark = _sprite_patches(look, pose, unit_px=unit_px, half=half)
  body = np.array(_PAINTS[look.colour], np.float32)
  ink = np.array(MARK_COLOUR, np.float32)
  paint = (
    alpha[..., None] * body + (alpha * mark)[..., None] * (ink - body)
  ).astype(np.float32)
  keep = (1.0 - alpha[..., None]).astype(np.float32)
  corners = np.floor(pose[:, :2] * unit_px).astype(int) + margin - half
  width = 2 * half + 1
  limit = canvas.shape[1] - width
  for index, (left, top) in enumerate(corners):
    if 0 <= left <= limit and 0 <= top <= limit:  # otherwise not visible
      patch = canvas[index, top : top + width, left : left + width]
      patch *= keep[index]
      patch += paint[index]


def draw_frames(
  looks: list[Look],
  poses: np.ndarray,
  camera: backgrounds.Camera,
  textures: list[np.ndarray],
  *,
  size_px: int,
) -> np.ndarray:
  """Draws a video.

  Args:
    looks: the sprites, the last one on top.
    poses: (sprites, n, 6) by POSE_CHANNELS, in frame units and radians.
    camera: motion of the camera in the n frames.
    textures: the backdrops that `camera.backdrop` indexes.
    size_px: side of the square frames.

  Returns:
    (n, size_px, size_px, 3) uint8 RGB.
  """
  num_frames = poses.shape[1]
  unit_px = size_px / FRAME_UNITS
  margin = int(np.ceil(28 * unit_px))
  frames = np.empty((num_frames, size_px, size_px, 3), np.uint8)
  side = size_px + 2 * margin
  for start in range(0, num_frames, CHUNK_FRAMES):
    part = slice(start, min(start + CHUNK_FRAMES, num_frames))
    length = part.stop - part.start
    canvas = np.zeros((length, side, side, 3), np.float32)
    inner = canvas[:, margin:-margin, margin:-margin]
    shift_px = (camera.offset[part] + camera.scroll[part]) * unit_px
    for backdrop in np.unique(camera.backdrop[part]):
      where = camera.backdrop[part] == backdrop
      inner[where] = backgrounds.view_texture(
        textures[backdrop], shift_px[where], size_px=size_px
      )
    for look, pose in zip(looks, poses[:, part], strict=True):
      moved = pose.copy()
      moved[:, :2] += camera.offset[part]
      _blend(canvas, look, moved, unit_px=unit_px, margin=margin)
    inner *= camera.brightness[part, None, None, None].astype(np.float32)
    np.clip(inner + 0.5, 0, 255.0, out=inner)
    frames[part] = inner
  return frames
