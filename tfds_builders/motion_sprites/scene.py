"""Generates one video's annotations and frames from (seed, split, index)."""

import dataclasses
import functools
import zlib

import numpy as np

from tfds_builders import packing
from tfds_builders.motion_sprites import (
  backgrounds,
  captions,
  choreography,
  near_misses,
  sizes,
  sprites,
  vague,
  verbs,
)

# Part of every seed and of the rendered folder's fingerprint: increase it with
# any change of pictures, captions or annotations.
SCENE_VERSION = 3
BACKGROUND_CAPTION_SHARE = 0.6


@dataclasses.dataclass
class Scene:
  """Everything needed to draw a video."""

  video_id: str
  split: str
  fps: int
  size_px: int
  looks: list[sprites.Look]
  actions: list[choreography.Action]
  events: list[choreography.Event]
  poses: np.ndarray  # (sprites, n, 6)
  camera: backgrounds.Camera
  textures: list[str]
  texture_seed: int
  captions: list[dict]
  # Annotated boundaries of the actions, in frames (actions, 2); the true ones,
  # except for the noise of a variant.
  stated: np.ndarray
  near_misses: list[near_misses.NearMiss]
  bystanders: list[sprites.Look]  # not annotated
  bystander_poses: np.ndarray  # (bystanders, n, 6)

  @property
  def num_frames(self) -> int:
    return self.poses.shape[1]


def _rng(config, seed, split, index):
  entropy = (
    SCENE_VERSION,
    zlib.crc32(config.size.encode()),
    config.seed,
    seed,
    zlib.crc32(split.encode()),
    index,
  )
  return np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))


def _set_camera(rng, events, num_frames, *, fps):
  """Returns camera, texture names and, by event, the camera's direction."""
  camera = backgrounds.still_camera(rng, num_frames, fps=fps)
  textures = [str(rng.choice(backgrounds.TEXTURES))]
  ways = []
  for event in events:
    way, span = (1.0, 0.0), (event.start, event.end)
    if event.kind == "pan":
      way = backgrounds.add_pan(camera, rng, *span)
    elif event.kind == "tremble":
      backgrounds.add_tremble(camera, rng, *span)
    elif event.kind == "flicker":
      backgrounds.add_flicker(camera, rng, *span)
    ways.append(way)
  cuts = sorted((e.start + e.end) // 2 for e in events if e.kind == "cut")
  for cut in cuts:
    textures.append(
      str(rng.choice([t for t in backgrounds.TEXTURES if t != textures[-1]]))
    )
    camera.backdrop[cut:] += 1
    camera.scroll[cut:] += rng.uniform(0, 128, 2)
  return camera, textures, ways


def _write_captions(rng, vague_rng, scene, ways, *, ambiguity):
  """Writes captions; `vague_rng` selects vague ones."""

  def ground(frame):
    return scene.textures[scene.camera.backdrop[frame]]

  def spoken(start, end, text):
    return {"segment": [start / scene.fps, end / scene.fps], "text": text}

  written = []
  for action in scene.actions:
    text = captions.caption_action(
      rng,
      scene.looks,
      action,
      scene.actions,
      scene.poses,
      fps=scene.fps,
      ground=ground(action.start),
      split=scene.split,
    )
    is_vague = vague_rng.random() < ambiguity
    too_little = vague.caption(vague_rng, action, scene.poses)
    text = too_little if is_vague else text
    written.append(spoken(action.start, action.end, text))
  for event, way in zip(scene.events, ways, strict=True):
    behind = any(
      a.start < event.end and a.end > event.start for a in scene.actions
    )
    if not behind and rng.random() < BACKGROUND_CAPTION_SHARE:
      text = captions.caption_event(
        rng,
        event,
        scene.poses,
        way=way,
        ground=ground(event.end - 1),
        split=scene.split,
        near_kinds={
          near.kind
          for near in scene.near_misses
          if near.start < event.end and near.end > event.start
        },
      )
      written.append(spoken(event.start, event.end, text))
  return sorted(written, key=lambda c: c["segment"])


def _stated_boundaries(rng, config, actions, *, num_frames, split):
  """Returns frames (actions, 2), moved at random in training splits."""
  spans = np.array([(a.start, a.end) for a in actions], np.float64)
  spans = spans.reshape(-1, 2)
  if not config.boundary_noise or choreography.may_hold_out(split):
    return spans
  reach = config.boundary_noise * (spans[:, 1] - spans[:, 0])
  shift = rng.uniform(-1.0, 1.0, spans.shape) * reach[:, None]
  return (spans + shift).clip(0, num_frames)


def make_scene(
  seed: int, split: str, *, index: int, config: sizes.SpritesConfig
) -> Scene:
  """Draws a scene, a pure function of its arguments.

  Any split name works: names other than train and selection may show held-out
  combinations, as validation does.
  """
  rng = _rng(config, seed, split, index)
  fps = int(rng.choice(config.fps))
  size_px = int(rng.choice(config.size_px))
  num_frames = round(rng.uniform(*config.duration_sec) * fps)
  looks = choreography.draw_looks(rng)
  actions = choreography.draw_schedule(
    rng,
    looks,
    num_frames,
    fps=fps,
    split=split,
    gap_sec=config.gap_sec,
    verb_names=class_names(config),
  )
  events = choreography.draw_events(
    rng, actions, num_frames, fps=fps, distractors=config.distractors
  )
  poses = choreography.choreograph(
    rng,
    len(looks),
    actions,
    events,
    num_frames,
    fps=fps,
    distractors=config.distractors,
  )
  camera, textures, ways = _set_camera(rng, events, num_frames, fps=fps)
  # Additions of a variant have their own random numbers: the rest is unchanged.
  near_rng = _rng(config, seed, f"near misses in {split}", index)
  found = near_misses.draw(
    near_rng,
    events,
    actions,
    num_sprites=len(looks),
    per_event=config.near_misses,
    names=near_misses.class_names(class_names(config)),
    fps=fps,
  )
  for near in found:
    if near.kind != "bystander":
      near_misses.perform(poses, near, fps=fps)
  bystanders, bystander_poses = near_misses.draw_bystander(
    near_rng, found, num_frames, fps=fps
  )
  scene = Scene(
    video_id=f"{split}_{index:06d}",
    split=split,
    fps=fps,
    size_px=size_px,
    looks=looks,
    actions=actions,
    events=events,
    poses=poses,
    camera=camera,
    textures=textures,
    texture_seed=int(rng.integers(2**31)),
    captions=[],
    stated=_stated_boundaries(
      _rng(config, seed, f"noise in {split}", index),
      config,
      actions,
      num_frames=num_frames,
      split=split,
    ),
    near_misses=found,
    bystanders=bystanders,
    bystander_poses=bystander_poses,
  )
  scene.captions = _write_captions(
    rng,
    _rng(config, seed, f"ambiguity in {split}", index),
    scene,
    ways,
    ambiguity=config.ambiguity if split == "train" else 0.0,
  )
  return scene


def class_names(config: sizes.SpritesConfig) -> tuple[str, ...]:
  """Returns the classes of a size or variant."""
  return verbs.CLASS_NAMES[: config.num_classes]


def annotate(scene: Scene) -> dict:
  """Returns the annotations of a scene as JSON types; times in seconds."""
  fps = scene.fps
  segments = [tuple((span / fps).tolist()) for span in scene.stated]
  # Captions of an action have its annotated time.
  stated = {
    (a.start / fps, a.end / fps): list(segment)
    for a, segment in zip(scene.actions, segments, strict=True)
  }
  duration_sec = scene.num_frames / fps
  spans = packing.background_spans(
    segments, duration_sec, longer_than=packing.MIN_BACKGROUND_SEC
  )
  actors = [scene.looks[a.actor] for a in scene.actions]
  near = [
    {"segment": [n.start / fps, n.end / fps], "kind": n.kind,
     "verb": n.motion.verb}
    for n in scene.near_misses
  ]  # fmt: skip
  return {
    "id": scene.video_id,
    "subset": scene.split,
    "duration": duration_sec,
    "fps": fps,
    "num_frames": scene.num_frames,
    "height": scene.size_px,
    "width": scene.size_px,
    "sprites": [dataclasses.asdict(look) for look in scene.looks],
    "annotations": [
      {
        "segment": list(segment),
        "label": action.verb,
        "colour": look.colour,
        "shape": look.shape,
      }
      for segment, action, look in zip(
        segments, scene.actions, actors, strict=True
      )
    ],
    "captions": [
      c | {"segment": stated.get(tuple(c["segment"]), c["segment"])}
      for c in scene.captions
    ],
    "background": [list(span) for span in spans],
    "events": [
      {"segment": [e.start / fps, e.end / fps], "kind": e.kind}
      for e in scene.events
    ],
    **({"near_misses": near} if near else {}),
  }


@functools.lru_cache(maxsize=2)  # parts of one scene are drawn in turn
def _make_textures(seed, names):
  rng = np.random.Generator(np.random.PCG64(seed))
  return [backgrounds.make_texture(rng, name) for name in names]


def draw(scene: Scene, frames: slice = slice(None)) -> np.ndarray:
  """Draws all or some frames of a scene: (n, size, size, 3) uint8 RGB."""
  textures = _make_textures(scene.texture_seed, tuple(scene.textures))
  camera = backgrounds.Camera(
    *(values[frames] for values in vars(scene.camera).values())
  )
  return sprites.draw_frames(
    [*scene.bystanders, *scene.looks],
    np.concatenate([scene.bystander_poses, scene.poses])[:, frames],
    camera,
    textures,
    size_px=scene.size_px,
  )


CLASS_SPLITS = verbs.CLASS_SPLITS
