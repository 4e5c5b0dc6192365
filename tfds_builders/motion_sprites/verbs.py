"""Defines motion verbs: poses of a sprite during an action.

All lengths are in units of a frame that is 64 wide and 64 high; the renderer
scales them. x grows to the right and y grows *downwards*, so that a growing
angle turns clockwise on the screen.

A motion function takes seconds since the start of the action and returns the
pose channels that it animates. x, y and angle are offsets that start at zero,
so that no jump reveals the start of an action; scale, stretch and opacity are
absolute and within the ranges of resting sprites, so that one frame does not
distinguish an acting sprite from a resting one.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

SCALE_RANGE = (0.75, 1.35)  # factor on the sprite's radius
STRETCH_RANGE = (-0.38, 0.38)  # log of width over mean, minus for tall
OPACITY_RANGE = (0.3, 1.0)

Channels = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Motion:
  """A performance of a verb; numbers are drawn once per action."""

  verb: str
  duration_sec: float
  period_sec: float
  amplitude: float  # frame units, radians or a fraction, by verb
  travel: float  # frame units from start to end, 0 for verbs that stay
  direction: tuple[float, float]  # unit vector of the travel
  turn: int  # +1 clockwise, -1 counter-clockwise
  phase: float  # in [0, 1), position in the period at the start
  table: np.ndarray  # (64, 3) uniform in [-1, 1): the random verbs' steps


@dataclasses.dataclass(frozen=True)
class Verb:
  """An action class: its motion and the ranges of its parameters."""

  function: Callable[[np.ndarray, Motion], Channels]
  period_sec: tuple[float, float]
  amplitude: tuple[float, float] = (0.0, 0.0)
  travel: tuple[float, float] = (0.0, 0.0)
  duration_sec: tuple[float, float] = (2.0, 4.6)
  horizontal: bool = False  # the travel is to the left or to the right


def _triangle(cycles: np.ndarray) -> np.ndarray:
  """Computes a triangle wave of period 1 in [-1, 1], zero and rising at 0."""
  return 1.0 - 4.0 * np.abs((cycles + 0.25) % 1.0 - 0.5)


def _from_start(values: np.ndarray, at_start: float) -> np.ndarray:
  return values - at_start


def _travelled(time_sec, motion):
  distance = motion.travel * time_sec / motion.duration_sec
  return motion.direction[0] * distance, motion.direction[1] * distance


def _slides(time_sec, motion):
  x, y = _travelled(time_sec, motion)
  return {"x": x, "y": y}


def _rolls(time_sec, motion):
  x, y = _travelled(time_sec, motion)
  sign = 1.0 if motion.direction[0] >= 0 else -1.0
  return {
    "x": x,
    "y": y,
    "angle": sign * 2 * np.pi * time_sec / motion.period_sec,
  }


def _zigzags(time_sec, motion):
  x, y = _travelled(time_sec, motion)
  side = motion.amplitude * _triangle(time_sec / motion.period_sec)
  return {
    "x": x - motion.direction[1] * side,
    "y": y + motion.direction[0] * side,
  }


def _hops(time_sec, motion):
  x, y = _travelled(time_sec, motion)
  height = np.abs(np.sin(np.pi * time_sec / motion.period_sec))
  return {"x": x, "y": y - motion.amplitude * height}


def _bounces(time_sec, motion):
  cycles = time_sec / motion.period_sec + motion.phase
  height = motion.amplitude * np.abs(np.sin(np.pi * cycles))
  at_start = motion.amplitude * abs(np.sin(np.pi * motion.phase))
  return {"y": -_from_start(height, at_start)}


def _paces(time_sec, motion):
  sign = motion.turn * motion.amplitude
  return {"x": sign * _triangle(time_sec / motion.period_sec)}


def _shakes(time_sec, motion):
  angle = 2 * np.pi * time_sec / motion.period_sec
  return {"x": motion.turn * motion.amplitude * np.sin(angle)}


def _jitters(time_sec, motion):
  steps = motion.table[(time_sec / motion.period_sec).astype(int) % 64]
  return {
    "x": motion.amplitude * steps[:, 0],
    "y": motion.amplitude * steps[:, 1],
    "angle": 0.5 * steps[:, 2],
  }


def _circle(cycles, motion, radius):
  start = 2 * np.pi * motion.phase
  angle = start + motion.turn * 2 * np.pi * cycles
  return radius * np.cos(angle), radius * np.sin(angle), start


def _orbits(time_sec, motion):
  x, y, start = _circle(time_sec / motion.period_sec, motion, motion.amplitude)
  return {
    "x": _from_start(x, motion.amplitude * np.cos(start)),
    "y": _from_start(y, motion.amplitude * np.sin(start)),
  }


def _spirals(time_sec, motion):
  radius = motion.amplitude * (
    0.5 - 0.5 * np.cos(2 * np.pi * time_sec / (3.2 * motion.period_sec))
  )
  x, y, _ = _circle(time_sec / motion.period_sec, motion, radius)
  return {"x": x, "y": y}


def _loops(time_sec, motion):
  angle = 2 * np.pi * time_sec / motion.period_sec
  return {
    "x": motion.turn * motion.amplitude * np.sin(angle),
    "y": 0.55 * motion.amplitude * np.sin(2 * angle),
  }


def _swings(time_sec, motion):
  tilt = motion.turn * np.sin(2 * np.pi * time_sec / motion.period_sec)
  return {
    "x": motion.amplitude * np.sin(tilt),
    "y": motion.amplitude * (np.cos(tilt) - 1.0),
    "angle": -tilt,
  }


def _drops(time_sec, motion):
  fallen = (time_sec / motion.period_sec) % 1.0
  return {"y": motion.amplitude * fallen**2}


def _darts(time_sec, motion):
  """Stands still, then covers a quarter of the frame in a fifth of a second."""
  place = time_sec / motion.period_sec
  last = place.astype(int)
  moved = np.clip((place % 1.0) * motion.period_sec / 0.2, 0.0, 1.0)[:, None]
  side = np.where(np.arange(64) % 2, -1.0, 1.0)  # out and back, within bounds
  along = side * (0.3 + 0.2 * np.abs(motion.table[:, 0]))
  stops = np.stack([along, 0.5 * motion.table[:, 1]], -1)[:, :: motion.turn]
  stops = motion.amplitude * (stops - stops[0])
  xy = stops[last % 64] * (1 - moved) + stops[(last + 1) % 64] * moved
  return {"x": xy[:, 0], "y": xy[:, 1]}


def _spins(time_sec, motion):
  return {"angle": motion.turn * 2 * np.pi * time_sec / motion.period_sec}


def _wobbles(time_sec, motion):
  cycles = time_sec / motion.period_sec
  return {"angle": motion.turn * motion.amplitude * np.sin(2 * np.pi * cycles)}


def _between(fraction, bounds):
  return bounds[0] * (bounds[1] / bounds[0]) ** fraction


def _pulses(time_sec, motion):
  cycles = time_sec / motion.period_sec + motion.phase
  return {
    "scale": _between(0.5 + 0.5 * np.sin(2 * np.pi * cycles), SCALE_RANGE)
  }


def _grows(time_sec, motion):
  cycles = time_sec / motion.period_sec + motion.phase
  return {"scale": _between(cycles % 1.0, SCALE_RANGE)}


def _shrinks(time_sec, motion):
  cycles = time_sec / motion.period_sec + motion.phase
  return {"scale": _between(1.0 - cycles % 1.0, SCALE_RANGE)}


def _squashes(time_sec, motion):
  cycles = time_sec / motion.period_sec + motion.phase
  return {"stretch": STRETCH_RANGE[1] * np.sin(2 * np.pi * cycles)}


def _fades(time_sec, motion):
  cycles = time_sec / motion.period_sec + motion.phase
  low, high = OPACITY_RANGE
  return {
    "opacity": low + (high - low) * (0.5 + 0.5 * np.cos(2 * np.pi * cycles))
  }


def _blinks(time_sec, motion):
  shown = (time_sec / motion.period_sec + motion.phase) % 1.0 < 0.5
  low, high = motion.amplitude, 1.0 - 0.6 * (motion.amplitude - 0.3)
  return {"opacity": np.where(shown, high, low)}


_TRAVEL_SEC = (2.0, 3.2)
VERBS: dict[str, Verb] = {
  "slides": Verb(_slides, (1, 1), travel=(28, 42), duration_sec=_TRAVEL_SEC),
  "rolls": Verb(
    _rolls,
    (1.0, 1.4),
    travel=(26, 40),
    horizontal=True,
    duration_sec=_TRAVEL_SEC,
  ),
  "zigzags": Verb(
    _zigzags, (0.85, 1.1), (7, 9), travel=(26, 38), duration_sec=_TRAVEL_SEC
  ),
  "hops": Verb(
    _hops,
    (0.7, 0.95),
    (10, 13),
    travel=(22, 36),
    horizontal=True,
    duration_sec=_TRAVEL_SEC,
  ),
  "bounces": Verb(_bounces, (0.8, 1.1), (17, 22)),
  "paces": Verb(_paces, (1.6, 2.1), (13, 17)),
  "shakes": Verb(_shakes, (0.42, 0.55), (5, 6.5)),
  "jitters": Verb(_jitters, (0.124, 0.126), (4, 5.5)),
  "orbits": Verb(_orbits, (1.4, 1.9), (12, 16), duration_sec=(2.4, 4.6)),
  "loops": Verb(_loops, (1.8, 2.3), (16, 19), duration_sec=(2.4, 4.8)),
  "spirals": Verb(_spirals, (0.85, 1.1), (15, 19), duration_sec=(2.4, 5.0)),
  "swings": Verb(_swings, (1.2, 1.6), (17, 22)),
  "drops": Verb(_drops, (1.0, 1.3), (28, 38)),
  "darts": Verb(_darts, (0.55, 0.7), (20, 28)),
  "spins": Verb(_spins, (0.95, 1.3)),
  "wobbles": Verb(_wobbles, (0.7, 0.95), (0.7, 0.95)),
  "pulses": Verb(_pulses, (0.9, 1.2)),
  "grows": Verb(_grows, (1.2, 1.6)),
  "shrinks": Verb(_shrinks, (1.2, 1.6)),
  "squashes": Verb(_squashes, (0.8, 1.1)),
  "fades": Verb(_fades, (1.6, 2.1)),
  "blinks": Verb(_blinks, (0.7, 0.85), (0.3, 0.4)),
}
CLASS_NAMES: tuple[str, ...] = tuple(VERBS)

# The class split for few-shot localization; fixed, never drawn.
CLASS_SPLITS: dict[str, tuple[str, ...]] = {
  "base": (
    "slides",
    "bounces",
    "spins",
    "pulses",
    "zigzags",
    "orbits",
    "shakes",
    "fades",
    "hops",
    "grows",
    "drops",
    "squashes",
  ),
  "validation": ("swings", "blinks", "paces", "rolls", "spirals"),
  "novel": ("darts", "shrinks", "wobbles", "jitters", "loops"),
}


def draw_motion(
  rng: np.random.Generator, verb: str, *, duration_sec: float
) -> Motion:
  """Draws one performance of `verb`; the travel's direction is set later."""
  spec = VERBS[verb]
  return Motion(
    verb=verb,
    duration_sec=duration_sec,
    period_sec=rng.uniform(*spec.period_sec),
    amplitude=rng.uniform(*spec.amplitude),
    travel=rng.uniform(*spec.travel),
    direction=(1.0, 0.0),
    turn=1 if rng.random() < 0.5 else -1,
    phase=rng.random(),
    table=rng.uniform(-1.0, 1.0, (64, 3)),
  )


def perform(motion: Motion, time_sec: np.ndarray) -> Channels:
  """Returns the animated pose channels `time_sec` after the action's start."""
  return VERBS[motion.verb].function(time_sec, motion)
