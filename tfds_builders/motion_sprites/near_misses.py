"""Generates background events that resemble actions.

There are three kinds, none annotated: half a motion that stops and returns
("half"), a motion of half the usual size ("small"), and an action of a
bystander, a grey shape outside the vocabulary of sprites ("bystander"). All are
of base classes: no stage of few-shot localization sees a hidden class as
background.
"""

import dataclasses

import numpy as np

from tfds_builders.motion_sprites import choreography, sprites, verbs

KINDS = ("half", "small", "bystander")
RETURN_SEC = 0.5  # back into the resting pose
_MIN_SEC = 1.1  # duration of a near miss, including its return
_PAUSE_SEC = 0.5  # between two in one event
_HALF = 0.5
_WITHOUT_SIZE = ("spins", "rolls")  # half of a turn is as fast a turn: no miss


@dataclasses.dataclass(frozen=True)
class NearMiss:
  """A near miss; in frames, including the return to the resting pose."""

  kind: str
  actor: int  # of the sprites; of a bystander its own number, 0
  start: int
  end: int
  motion: verbs.Motion


def class_names(names: tuple[str, ...]) -> tuple[str, ...]:
  """Returns the classes among `names` that near misses may resemble."""
  base = tuple(name for name in names if name in verbs.CLASS_SPLITS["base"])
  return base or names


def draw(
  rng: np.random.Generator,
  events: list[choreography.Event],
  actions: list[choreography.Action],
  *,
  num_sprites: int,
  per_event: float,
  names: tuple[str, ...],
  fps: float,
) -> list[NearMiss]:
  """Draws `per_event` near misses on average for each event between actions.

  Every event has its own random numbers, so that additional ones do not change
  existing ones, as far as their time allows.
  """
  seeds = rng.integers(2**32, size=len(events))
  found = []
  for event, seed in zip(events, seeds, strict=True):
    own = np.random.Generator(np.random.PCG64(int(seed)))
    is_behind = any(
      a.start < event.end and a.end > event.start for a in actions
    )
    if not is_behind:
      count = int(per_event) + (own.random() < per_event % 1.0)
      found += [
        _draw_one(own, *slot, num_sprites=num_sprites, names=names, fps=fps)
        for slot in _slots(event, count, fps=fps)
      ]
  return found


def _slots(event, count: int, *, fps: float) -> list[tuple[int, int]]:
  """Returns at most `count` spans of an event that fit, with pauses between."""
  pause = round(_PAUSE_SEC * fps)
  length = event.end - event.start + pause
  count = min(count, length // (round(_MIN_SEC * fps) + pause))
  width = length // max(1, count)
  firsts = [event.start + index * width for index in range(count)]
  return [(first, first + width - pause) for first in firsts]


def _draw_one(
  rng, start: int, end: int, *, num_sprites: int, names, fps: float
) -> NearMiss:
  """Draws a near miss within [start, end)."""
  kind, verb = str(rng.choice(KINDS)), str(rng.choice(names))
  if kind == "small" and verb in _WITHOUT_SIZE:
    kind = "half"
  actor = 0 if kind == "bystander" else int(rng.integers(num_sprites))
  duration_sec = rng.uniform(*verbs.VERBS[verb].duration_sec)
  longest_sec = (end - start) / fps
  if kind != "bystander":
    longest_sec -= RETURN_SEC
  if kind != "half":  # a half is one of the usual length
    duration_sec = min(duration_sec, longest_sec)
  motion = verbs.draw_motion(rng, verb, duration_sec=duration_sec)
  acted_sec = duration_sec
  if kind == "half":
    is_travel = verbs.VERBS[verb].travel[1] > 0
    whole_sec = duration_sec if is_travel else max(1.0, motion.period_sec)
    acted_sec = min(_HALF * whole_sec, longest_sec)
  frames = round(acted_sec * fps)
  if kind != "bystander":
    frames += round(RETURN_SEC * fps)
  frames = min(frames, end - start)
  first = start + int(rng.integers(end - start - frames + 1))
  return NearMiss(kind, actor, first, first + frames, motion)


def perform(poses: np.ndarray, near: NearMiss, *, fps: float) -> None:
  """Adds a near miss of a sprite to the poses (sprites, n, 6), in place."""
  span = poses[near.actor, near.start : near.end]
  num_back = min(round(RETURN_SEC * fps), len(span) - 1)
  num_acted = len(span) - num_back
  time_sec = np.arange(num_acted) / fps
  motion = dataclasses.replace(near.motion, direction=_to_middle(near, span))
  settle = np.minimum(1.0, (time_sec + 1.0 / fps) / choreography.SETTLE_SEC)
  u = np.arange(1, num_back + 1) / (num_back + 1)
  back = 1.0 - (3 * u**2 - 2 * u**3)
  size = _HALF if near.kind == "small" else 1.0
  for name, acted in verbs.perform(motion, time_sec).items():
    column = sprites.POSE_CHANNELS.index(name)
    values = np.concatenate([acted, np.repeat(acted[-1:], num_back)])
    if name in ("x", "y", "angle"):  # offsets that start at 0
      weight = size * np.concatenate([np.ones(num_acted), back])
      span[:, column] += weight * values
    else:
      weight = size * np.concatenate([settle, back])
      span[:, column] += weight * (values - span[:, column])
  low, high = choreography.EDGE, sprites.FRAME_UNITS - choreography.EDGE
  span[:, :2] = span[:, :2].clip(low, high)


def _to_middle(near: NearMiss, span) -> tuple[float, float]:
  """Returns the direction from a sprite to the middle of the frame."""
  way = sprites.FRAME_UNITS / 2 - span[0, :2]
  if verbs.VERBS[near.motion.verb].horizontal:
    way = np.array([np.sign(way[0]) or 1.0, 0.0])
  way = way / max(1e-6, float(np.hypot(*way)))
  return float(way[0]), float(way[1])


def draw_bystander(
  rng: np.random.Generator,
  near_misses: list[NearMiss],
  num_frames: int,
  *,
  fps: float,
) -> tuple[list[sprites.Look], np.ndarray]:
  """Returns look and poses (1, n, 6) of the bystander; none if it rests."""
  acted = [near for near in near_misses if near.kind == "bystander"]
  if not acted:
    return [], np.zeros((0, num_frames, 6))
  size = str(rng.choice(list(sprites.SIZES)))
  look = sprites.Look(
    str(rng.choice(list(sprites.OUTSIDE_COLOURS))),
    str(rng.choice(sprites.SHAPES)),
    size,
    rng.uniform(*sprites.SIZES[size]),
  )
  actions = [
    choreography.Action(0, near.start, near.end, near.motion) for near in acted
  ]
  poses = choreography.choreograph(rng, 1, actions, [], num_frames, fps=fps)
  return [look], poses
