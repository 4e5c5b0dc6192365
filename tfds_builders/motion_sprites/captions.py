"""Generates natural captions of actions and of events between them.

Captions describe the computed poses, so that directions and relations are true.
Some templates are held out: only splits other than train and selection use
them.
"""

import numpy as np

from tfds_builders.motion_sprites import choreography, sprites

PHRASES = {
  "slides": ("slides", "glides", "moves in a straight line"),
  "rolls": ("rolls", "rolls along like a wheel"),
  "zigzags": ("zigzags", "moves in a zigzag", "weaves its way"),
  "hops": ("hops", "hops along", "goes in little jumps"),
  "bounces": (
    "bounces on the spot",
    "bounces up and down",
    "keeps bouncing like a ball",
  ),
  "paces": ("paces left and right", "paces back and forth", "walks to and fro"),
  "shakes": ("shakes", "shakes from side to side", "shakes its head"),
  "jitters": ("jitters", "jitters nervously", "twitches at random"),
  "orbits": ("circles {turn}", "orbits {turn}", "goes round {turn}"),
  "loops": (
    "traces a figure eight",
    "flies figure eights",
    "loops in an eight",
  ),
  "spirals": ("spirals out and in", "moves in a spiral", "spirals"),
  "swings": ("swings like a pendulum", "swings to and fro", "swings"),
  "drops": (
    "drops again and again",
    "keeps falling down",
    "falls, returns and falls again",
  ),
  "darts": (
    "darts about",
    "dashes here and there",
    "darts back and forth with pauses",
  ),
  "spins": ("spins {turn}", "rotates {turn}", "turns round {turn} in place"),
  "wobbles": ("wobbles", "rocks in place", "tilts one way and the other"),
  "pulses": ("pulses", "pulses in size", "swells and shrinks like a heart"),
  "grows": ("grows again and again", "keeps growing", "inflates repeatedly"),
  "shrinks": (
    "shrinks again and again",
    "keeps shrinking",
    "deflates repeatedly",
  ),
  "squashes": (
    "is squashed and stretched",
    "squashes and stretches",
    "gets flat and tall in turn",
  ),
  "fades": (
    "fades out and in",
    "slowly fades and returns",
    "becomes faint and clear again",
  ),
  "blinks": ("blinks", "blinks on and off", "flashes on and off"),
}
TRAVELLING = ("slides", "rolls", "zigzags", "hops")

TEMPLATES = (
  "{the} {motion}",
  "{a} {motion}",
  "{the} {motion}",
  "here {the} {motion}",
  "now {the} {motion}",
  "{the} {motion} for {seconds} seconds",
  "{the}, {place}, {motion}",
  "we see {a} that {motion}",
  "{the} {motion} {meanwhile}",
  "{place}, {a} {motion}",
  "before {ground}, {the} {motion}",
)
HELD_OUT_TEMPLATES = (
  "it is {the} that {motion}",
  "for {seconds} seconds {the} {motion}",
  "{a} {place} {motion} before {ground}",
  "we see {the}: now it {motion}",
)
BACKGROUND_TEMPLATES = {
  "rest": (
    "{sprites} rest",
    "nothing happens",
    "{sprites} stay still",
    "{sprites} wait before {ground}",
  ),
  "pan": (
    "{sprites} rest while the camera pans {way}",
    "the camera pans {way} and back",
  ),
  "tremble": (
    "the camera trembles while {sprites} rest",
    "{sprites} rest in front of an unsteady camera",
  ),
  "flicker": (
    "the light flickers while {sprites} rest",
    "{sprites} rest in flickering light",
  ),
  "drift": ("{sprites} drift slowly", "{sprites} float about aimlessly"),
  "cut": ("the scene cuts to {ground}", "a cut to {ground}, {sprites} rest"),
  # Additions of near_misses.py to any of these.
  "stir": (
    "a sprite stirs and stops",
    "for a moment one of {sprites} stirs",
    "only a little movement before {ground}",
  ),
  "bystander": ("something grey moves", "a grey shape is in motion"),
}
HELD_OUT_BACKGROUND = {
  "rest": ("{sprites} rest before {ground}, nothing happens",),
  "pan": ("while {sprites} rest, the camera pans {way}",),
  "tremble": ("the camera is unsteady and {sprites} stay still",),
  "flicker": ("{sprites} wait while the light flickers",),
  "drift": ("aimlessly {sprites} drift before {ground}",),
  "cut": ("a cut, now {sprites} rest before {ground}",),
  "stir": ("before {ground} a sprite stirs for a moment",),
  "bystander": ("before {ground} something grey is in motion",),
}
HELD_OUT_TEMPLATE_SHARE = 0.5

_COUNTS = {2: "two", 3: "three", 4: "four"}
_WAYS = (
  "right",
  "down and right",
  "down",
  "down and left",
  "left",
  "up and left",
  "up",
  "up and right",
)


def _article(noun):
  return ("an " if noun[0] in "aeiou" else "a ") + noun


def _noun(rng, looks, index):
  """Names the actor by attributes that distinguish it from other sprites."""
  look = looks[index]
  others = [x for i, x in enumerate(looks) if i != index]
  forms = [f"{look.colour} {look.shape}"] * 3
  forms += [f"{look.size} {look.colour} {look.shape}"] * 2
  if all(x.shape != look.shape for x in others):
    forms += [look.shape, f"{look.size} {look.shape}"]
  if all(x.colour != look.colour for x in others):
    forms.append(f"{look.colour} sprite")
  return str(rng.choice(forms))


def _place(xy):
  third = sprites.FRAME_UNITS / 3
  column = ("left", "", "right")[int(np.clip(xy[0] // third, 0, 2))]
  row = ("top", "", "bottom")[int(np.clip(xy[1] // third, 0, 2))]
  words = " ".join(w for w in (row, column) if w)
  return f"at the {words}" if words else "in the middle"


def _way(vector):
  octant = round(float(np.arctan2(vector[1], vector[0])) / (np.pi / 4)) % 8
  return _WAYS[octant]


def _travel_words(rng, looks, action, poses):
  """Describes the direction or relation of a travelling action by the poses."""
  path = poses[action.actor, action.start : action.end, :2]
  vector = path[-1] - path[0]
  options = [
    "",
    f"to the {_way(vector)}"
    if _way(vector) in ("left", "right")
    else _way(vector),
  ]
  for other in range(poses.shape[0]):
    if other == action.actor:
      continue
    there = poses[other, action.start : action.end, :2]
    near = np.hypot(*(there[0] - path[0])), np.hypot(*(there[-1] - path[-1]))
    line = there[0] - path[0]
    aim = line @ vector / max(1e-6, np.hypot(*line) * np.hypot(*vector))
    name = f"the {_noun(rng, looks, other)}"
    if near[1] < near[0] - 8 and aim > 0.87:
      options += [f"towards {name}"] * 3
    elif near[1] > near[0] + 8 and aim < -0.87:
      options += [f"away from {name}"] * 3
  return str(rng.choice(options))


def _orbit_words(rng, looks, action, poses):
  middle = poses[action.actor, action.start : action.end, :2].mean(0)
  for other in range(poses.shape[0]):
    there = poses[other, action.start : action.end, :2]
    if other != action.actor and np.hypot(*(there - middle).T).max() < 7.0:
      return f"around the {_noun(rng, looks, other)}"
  return ""


def _motion_words(rng, looks, action, poses):
  turn = "clockwise" if action.motion.turn > 0 else "counter-clockwise"
  phrase = str(rng.choice(PHRASES[action.verb]))
  if rng.random() < 0.4:
    phrase = phrase.replace(" {turn}", "")
  words = [phrase.format(turn=turn)]
  if action.verb in TRAVELLING:
    words.append(_travel_words(rng, looks, action, poses))
  elif action.verb == "orbits":
    words.append(_orbit_words(rng, looks, action, poses))
  return " ".join(w for w in words if w)


def _meanwhile(rng, looks, action, actions, poses):
  """Describes the action of the other sprites, if they all do the same."""
  busy = [
    a
    for a in actions
    if a.actor != action.actor and a.start < action.end and a.end > action.start
  ]
  if busy:
    return f"while {_article(_noun(rng, looks, busy[0].actor))} acts too"
  idle = np.delete(poses[:, action.start : action.end, :2], action.actor, 0)
  if np.ptp(idle, axis=1).max() > 3.0:
    return ""
  return (
    "while the other rests" if len(looks) == 2 else ("while the others rest")
  )


def caption_action(
  rng: np.random.Generator,
  looks: list[sprites.Look],
  action: choreography.Action,
  actions: list[choreography.Action],
  poses: np.ndarray,
  *,
  fps: float,
  ground: str,
  split: str,
) -> str:
  """Returns a caption of an action."""
  templates = TEMPLATES
  if (
    choreography.may_hold_out(split) and rng.random() < HELD_OUT_TEMPLATE_SHARE
  ):
    templates = HELD_OUT_TEMPLATES
  noun = _noun(rng, looks, action.actor)
  text = str(rng.choice(templates)).format(
    the=f"the {noun}",
    a=_article(noun),
    motion=_motion_words(rng, looks, action, poses),
    place=_place(poses[action.actor, action.start, :2]),
    seconds=str(max(2, round((action.end - action.start) / fps))),
    meanwhile=_meanwhile(rng, looks, action, actions, poses),
    ground=f"{_article(ground)} backdrop",
  )
  return text.strip()


def caption_event(
  rng: np.random.Generator,
  event: choreography.Event,
  poses: np.ndarray,
  *,
  way: tuple[float, float],
  ground: str,
  split: str,
  near_kinds: set[str],
) -> str:
  """Returns a caption of a background event.

  `way` is the camera's direction, `near_kinds` the visible near misses.
  """
  kind, path = event.kind, poses[:, event.start : event.end, :2]
  moved = np.ptp(path, axis=1).max() > 3.0
  if kind != "cut" and moved:  # no sprite rests: describe that
    kind = "drift"
  elif kind == "drift" and not moved:
    kind = "rest"
  if near_kinds:
    kind = "bystander" if near_kinds == {"bystander"} else "stir"
  table = BACKGROUND_TEMPLATES
  if (
    choreography.may_hold_out(split) and rng.random() < HELD_OUT_TEMPLATE_SHARE
  ):
    table = HELD_OUT_BACKGROUND
  count = _COUNTS[poses.shape[0]]
  return str(rng.choice(table[kind])).format(
    sprites=str(rng.choice([f"{count} sprites", "the sprites"])),
    way=_way(way),
    ground=f"{_article(ground)} backdrop",
  )
