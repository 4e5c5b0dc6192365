"""Generates ambiguous captions.

"something spins", "a shape moves left": true of their action and of many
others. A vague caption omits the actor, or at random also the exact motion.
"""

import numpy as np

from tfds_builders.motion_sprites import choreography

SUBJECTS = ("something", "a shape", "a sprite", "one of them")
# Only the motion, without turn, direction or relation.
CLASS_WORDS = {
  "slides": "slides",
  "rolls": "rolls",
  "zigzags": "zigzags",
  "hops": "hops",
  "bounces": "bounces",
  "paces": "paces",
  "shakes": "shakes",
  "jitters": "jitters",
  "orbits": "circles",
  "loops": "flies figure eights",
  "spirals": "spirals",
  "swings": "swings",
  "drops": "drops",
  "darts": "darts about",
  "spins": "spins",
  "wobbles": "wobbles",
  "pulses": "pulses",
  "grows": "grows",
  "shrinks": "shrinks",
  "squashes": "squashes",
  "fades": "fades",
  "blinks": "blinks",
}
# Groups of similar classes, with words for them.
GROUPS = {
  "travels": (("slides", "rolls", "zigzags", "hops"), ("moves {way}",)),
  "moves": (
    ("bounces", "paces", "shakes", "jitters", "orbits", "loops", "spirals",
     "swings", "drops", "darts"),
    ("moves", "moves about", "keeps moving"),
  ),
  "turns": (("spins", "wobbles"), ("moves in place", "turns in place")),
  "size": (
    ("pulses", "grows", "shrinks", "squashes"),
    ("changes its size", "changes"),
  ),
  "look": (("fades", "blinks"), ("gets faint and clear", "changes")),
}  # fmt: skip
_CLASS_SHARE = 0.5  # share of vague captions that name the class


def group_of(verb: str) -> str:
  """Returns the group of a class."""
  return next(name for name, (members, _) in GROUPS.items() if verb in members)


def caption(
  rng: np.random.Generator,
  action: choreography.Action,
  poses: np.ndarray,
) -> str:
  """Returns a true but vague caption of an action."""
  subject = str(rng.choice(SUBJECTS))
  if rng.random() < _CLASS_SHARE:
    return f"{subject} {CLASS_WORDS[action.verb]}"
  return f"{subject} {rng.choice(group_phrases(action, poses))}"


def group_phrases(
  action: choreography.Action, poses: np.ndarray
) -> tuple[str, ...]:
  """Returns words that describe the action and its group of classes."""
  way = way_of(action, poses)
  phrases = GROUPS[group_of(action.verb)][1]
  return tuple(phrase.format(way=way) for phrase in phrases)


def way_of(action: choreography.Action, poses: np.ndarray) -> str:
  """Returns the main direction of a travel (left, right, up, down), or ""."""
  if group_of(action.verb) != "travels":
    return ""
  path = poses[action.actor, action.start : action.end, :2]
  x, y = path[-1] - path[0]
  if abs(x) >= abs(y):
    return "right" if x > 0 else "left"
  return "down" if y > 0 else "up"
