"""Schedules actions and computes the pose of every sprite.

Times are frame indices [start, end); positions are in frame units (sprites.py).
"""

import dataclasses
import zlib

import numpy as np

from tfds_builders import packing
from tfds_builders.motion_sprites import sprites, verbs

EDGE = 8.0  # a sprite's middle stays this far inside the frame
SETTLE_SEC = 0.25  # from the resting pose into the motion, no jump
MIN_REST_SEC = 1.4  # between two actions of one sprite
OVERLAP_SHARE = 0.22  # of the actions have company
REPEAT_SHARE = 0.2  # of the actions repeat a verb with another actor
HELD_OUT_SHARE = 0.35  # of validation's actions; none elsewhere

_EVENTS = {
  "rest": 0.28,
  "pan": 0.2,
  "tremble": 0.12,
  "flicker": 0.12,
  "drift": 0.16,
  "cut": 0.12,
}


@dataclasses.dataclass
class Action:
  """A sprite that performs a verb."""

  actor: int
  start: int
  end: int
  motion: verbs.Motion

  @property
  def verb(self) -> str:
    return self.motion.verb


@dataclasses.dataclass(frozen=True)
class Event:
  """An event of a background span, or (pan ...) behind an action."""

  kind: str
  start: int
  end: int


def is_held_out(colour: str, shape: str, verb: str) -> bool:
  """Returns True if only validation may show a combination (one in ten)."""
  key = f"{colour}/{shape}/{verb}".encode()
  return zlib.crc32(key) % 10 == 0


def may_hold_out(split: str) -> bool:
  """Returns True if a split may show held-out combinations and templates."""
  return split not in ("train", "selection")


def draw_looks(rng: np.random.Generator) -> list[sprites.Look]:
  """Draws two to four sprites, no two of the same colour and shape."""
  looks = []
  for _ in range(int(rng.integers(2, 5))):
    while True:
      colour = str(rng.choice(list(sprites.COLOURS)))
      shape = str(rng.choice(sprites.SHAPES))
      if all((colour, shape) != (x.colour, x.shape) for x in looks):
        break
    size = str(rng.choice(list(sprites.SIZES)))
    radius = rng.uniform(*sprites.SIZES[size])
    looks.append(sprites.Look(colour, shape, size, radius))
  return looks


def _choose_verb(rng, look, unused, earlier, *, split):
  """Draws an allowed verb for an actor; None if none is left."""
  held_out = [v for v in unused if is_held_out(look.colour, look.shape, v)]
  if may_hold_out(split):
    if held_out and rng.random() < HELD_OUT_SHARE:
      return held_out[0]
    allowed = unused
  else:
    allowed = [v for v in unused if v not in held_out]
    earlier = [
      v for v in earlier if not is_held_out(look.colour, look.shape, v)
    ]
  if earlier and rng.random() < REPEAT_SHARE:
    return str(rng.choice(earlier))
  return allowed[0] if allowed else None


def draw_schedule(
  rng: np.random.Generator,
  looks: list[sprites.Look],
  num_frames: int,
  *,
  fps: float,
  split: str,
  gap_sec: tuple[float, float],
  verb_names: tuple[str, ...] = verbs.CLASS_NAMES,
) -> list[Action]:
  """Draws the actions of a video, sorted by start."""
  unused = [str(v) for v in rng.permutation(verb_names)]
  free_from = [0.0] * len(looks)
  actions: list[Action] = []
  end_sec = num_frames / fps - 0.5

  def place(start_sec):
    actors = [i for i, free in enumerate(free_from) if free <= start_sec]
    if not actors:
      return None
    actor = int(rng.choice(actors))
    earlier = sorted(
      {a.verb for a in actions if a.actor != actor}
      - {a.verb for a in actions if a.actor == actor}
    )
    verb = _choose_verb(rng, looks[actor], unused, earlier, split=split)
    if verb is None:
      return None
    frames = round(rng.uniform(*verbs.VERBS[verb].duration_sec) * fps)
    start = round(start_sec * fps)
    if start + frames > end_sec * fps:
      return None
    if verb in unused:
      unused.remove(verb)
    motion = verbs.draw_motion(rng, verb, duration_sec=frames / fps)
    actions.append(Action(actor, start, start + frames, motion))
    free_from[actor] = (start + frames) / fps + MIN_REST_SEC
    return start_sec, (start + frames) / fps

  now = rng.uniform(0.6, 3.0)
  while now < end_sec - 2.0:
    span = place(now)
    last = now if span is None else span[1]
    if span and rng.random() < OVERLAP_SHARE:
      second = place(rng.uniform(span[0] + 0.4, span[1] - 0.4))
      last = max(last, second[1] if second else 0.0)
    now = last + rng.uniform(*gap_sec)
  return sorted(actions, key=lambda a: (a.start, a.actor))


def _event_odds(distractors: float) -> list[float]:
  """Returns the probabilities of _EVENTS; more distractors, less rest."""
  if distractors == 1.0:
    return list(_EVENTS.values())
  busy = 1.0 - _EVENTS["rest"]
  factor = min(distractors, 1.0 / busy)
  odds = {kind: factor * share for kind, share in _EVENTS.items()}
  odds["rest"] = 1.0 - factor * busy
  return list(odds.values())


def draw_events(
  rng: np.random.Generator,
  actions: list[Action],
  num_frames: int,
  *,
  fps: float,
  distractors: float = 1.0,
) -> list[Event]:
  """Draws the events between actions, and sometimes during them.

  `distractors` is a factor on the frequency of events other than rest.
  """
  events = []
  gaps = packing.background_spans(
    [(a.start, a.end) for a in actions],
    num_frames,
    longer_than=round(1.2 * fps),
  )
  kinds, odds = list(_EVENTS), _event_odds(distractors)
  for start, end in gaps:
    kind = str(rng.choice(kinds, p=odds))
    inset = int(rng.integers(0, max(1, round(0.2 * fps))))
    events.append(Event(kind, start + inset, end - inset))
  for action in actions:
    if rng.random() < 0.22 * distractors:
      kind = str(rng.choice(["pan", "tremble", "flicker"]))
      events.append(Event(kind, action.start, action.end))
  return events


def _resting_pose(rng, taken):
  """Draws a pose, away from occupied positions if there is room."""
  for _ in range(12):
    xy = rng.uniform(EDGE + 3, sprites.FRAME_UNITS - EDGE - 3, 2)
    if all(np.hypot(*(xy - other)) > 19 for other in taken):
      break
  low, high = np.log(verbs.SCALE_RANGE)
  bands = ((0.85, 1.0), (0.3, 0.45), (0.45, 0.85))
  opacity = rng.uniform(*bands[int(rng.choice(3, p=(0.6, 0.14, 0.26)))])
  return np.array(
    [
      *xy,
      rng.uniform(0, 2 * np.pi),
      np.exp(rng.uniform(low, high)),
      rng.uniform(*verbs.STRETCH_RANGE),
      opacity,
    ]
  )


def _aim(rng, motion, xy, others):
  """Directs the travel to free space, sometimes to or from a sprite."""
  ways = [
    np.array([np.cos(a), np.sin(a)]) for a in rng.uniform(0, 2 * np.pi, 10)
  ]
  for other in others:
    way = (other - xy) / max(1e-6, np.hypot(*(other - xy)))
    ways[:0] = [way, -way] if rng.random() < 0.7 else []
  if verbs.VERBS[motion.verb].horizontal:
    flat = [
      np.array([np.sign(w[0]) or 1.0, np.clip(w[1], -0.25, 0.25)]) for w in ways
    ]
    ways = [w / np.hypot(*w) for w in flat]
  low, high = EDGE, sprites.FRAME_UNITS - EDGE

  def outside(way):
    end = xy + motion.travel * way
    return round(
      float(np.sum(np.maximum(low - end, 0) + np.maximum(end - high, 0))), 1
    )

  way = min(ways, key=outside)
  return dataclasses.replace(motion, direction=(float(way[0]), float(way[1])))


def _act(pose, action, home, *, fps):
  """Writes the poses of an action; `home` is the resting pose before it."""
  time_sec = np.arange(action.end - action.start) / fps
  channels = verbs.perform(action.motion, time_sec)
  weight = np.minimum(1.0, (time_sec + 1.0 / fps) / SETTLE_SEC)
  out = np.repeat(home[None], len(time_sec), 0)
  for name, values in channels.items():
    column = sprites.POSE_CHANNELS.index(name)
    if name in ("x", "y", "angle"):
      out[:, column] += values
    else:
      out[:, column] += weight * (values - home[column])
  pose[action.start : action.end] = out


def _fit(rng, motion, home, others, *, fps):
  """Moves the home as little as needed to keep the motion in the frame.

  If that overlaps another sprite, the home is a random farther position.
  """
  time_sec = np.arange(round(motion.duration_sec * fps)) / fps
  channels = verbs.perform(motion, time_sec)
  values = [channels.get(name, np.zeros(1)) for name in ("x", "y")]
  low = EDGE - np.array([v.min() for v in values])
  high = sprites.FRAME_UNITS - EDGE - np.array([v.max() for v in values])
  low, high = (
    np.minimum(low, (low + high) / 2),
    np.maximum(high, (low + high) / 2),
  )
  choices = [np.clip(home[:2], low, high), *rng.uniform(low, high, (6, 2))]

  def crowded(xy):
    return max([0.0, *(17.0 - np.hypot(*(xy - o)) for o in others)])

  fitted = home.copy()
  fitted[:2] = min(choices, key=crowded)
  return fitted


def _idle(pose, start, end, before, after):
  """Eases from one resting pose to the next position over a rest."""
  if end > start:
    u = np.linspace(0.0, 1.0, end - start, endpoint=False)[:, None]
    pose[start:end] = before + (3 * u**2 - 2 * u**3) * (after - before)


def _drift(rng, poses, actions, event, *, distractors):
  """Moves each sprite that rests during the event away and back."""
  u = np.linspace(0.0, 1.0, event.end - event.start)[:, None]
  for actor in range(poses.shape[0]):
    busy = any(
      a.actor == actor and a.start < event.end and a.end > event.start
      for a in actions
    )
    if not busy and rng.random() < 0.75:
      ways = rng.normal(0, 1, (3, 2)) * [[5.0], [3.0], [1.5]] * distractors
      wander = sum(np.sin(np.pi * (k + 1) * u) * ways[k] for k in range(3))
      span = poses[actor, event.start : event.end, :2]
      span += wander
      if distractors > 1.0:  # far enough to exit the frame
        span[:] = span.clip(EDGE, sprites.FRAME_UNITS - EDGE)
      turn = distractors * rng.normal(0, 0.5) * np.sin(np.pi * u[:, 0])
      poses[actor, event.start : event.end, 2] += turn


def choreograph(
  rng: np.random.Generator,
  num_sprites: int,
  actions: list[Action],
  events: list[Event],
  num_frames: int,
  *,
  fps: float,
  distractors: float = 1.0,
) -> np.ndarray:
  """Computes poses (sprites, n, 6); directs travels of `actions` in place."""
  poses = np.zeros((num_sprites, num_frames, 6))
  rests: list[np.ndarray] = []
  for _ in range(num_sprites):
    rests.append(_resting_pose(rng, [r[:2] for r in rests]))
  cursors = [0] * num_sprites
  cuts = [(e.start + e.end) // 2 for e in events if e.kind == "cut"]
  steps = sorted(
    [(a.start, 1, a) for a in actions] + [(cut, 0, None) for cut in cuts],
    key=lambda s: s[:2],
  )
  for start, _, action in steps:
    if action is None:  # the scene changes: all sprites are elsewhere
      fresh: list[np.ndarray] = []
      for actor in range(num_sprites):
        _idle(poses[actor], cursors[actor], start, rests[actor], rests[actor])
        fresh.append(_resting_pose(rng, [r[:2] for r in fresh]))
        cursors[actor] = start
      rests = fresh
      continue
    actor = action.actor
    others = [r[:2] for i, r in enumerate(rests) if i != actor]
    action.motion = _aim(rng, action.motion, rests[actor][:2], others)
    home = _fit(rng, action.motion, rests[actor], others, fps=fps)
    _idle(poses[actor], cursors[actor], start, rests[actor], home)
    _act(poses[actor], action, home, fps=fps)
    rests[actor] = poses[actor, action.end - 1]
    cursors[actor] = action.end
  for actor in range(num_sprites):
    poses[actor, cursors[actor] :] = rests[actor]
  for event in events:
    if event.kind == "drift":
      _drift(rng, poses, actions, event, distractors=distractors)
  return poses
