"""Defines class splits for training, validation and evaluation.

Splits are fixed and published as data, never drawn at random: results over
different classes are not comparable.
"""

import dataclasses
import importlib.resources
import pathlib
from collections.abc import Collection

from clap_jax.storage import locations, text_tables, untrusted


@dataclasses.dataclass(frozen=True)
class ClassSplit:
  """Class names of the three disjoint parts of a split."""

  name: str
  base: tuple[str, ...]  # with labels in training
  validation: tuple[str, ...]  # for choices of the method, never trained on
  novel: tuple[str, ...]  # met with the support, at the end

  def __post_init__(self):
    parts = (self.base, self.validation, self.novel)
    if not all(parts[::2]):
      raise ValueError(f"class split {self.name}: base and novel are needed")
    names = [name for part in parts for name in part]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
      raise ValueError(
        f"class split {self.name}: {repeated} appear twice; base, "
        "validation and novel classes must differ"
      )

  @property
  def hidden(self) -> tuple[str, ...]:
    """Returns the classes hidden from pre-training on the base classes."""
    return (*self.validation, *self.novel)


def class_split(
  name: str, *, label_names: Collection[str] | None = None
) -> ClassSplit:
  """Returns a published split by name, or reads one from a file.

  Args:
    name: a key of `CLASS_SPLITS`; one of `REDIVIDED` with a number; a path that
      ends in .json, to a file {"base": [...], "validation": [...], "novel":
      [...]}; or one that ends in .list, .../train/NAME.list or
      .../test/NAME.list, one class per line, each read with its counterpart:
      the form of public zero-shot splits.
    label_names: class names of the dataset, which must include all classes of
      the split.

  Raises:
    ValueError: unknown name, malformed file, or classes the dataset lacks.
    FileNotFoundError: no such file.
  """
  if name in CLASS_SPLITS:
    split = CLASS_SPLITS[name]
  elif name.rpartition("_")[0] in REDIVIDED:
    split = _redivided(name)
  elif name.endswith(".json"):
    split = _read(locations.at(name))
  elif name.endswith(".list"):
    split = _read_lists(locations.at(name))
  else:
    raise ValueError(
      f"unknown class split {name!r}; choose from {', '.join(CLASS_SPLITS)}, "
      f"{', '.join(f'{family}_0' for family in REDIVIDED)}, or name a .json "
      "file with the lists base, validation and novel, or a .list file of a "
      "zero-shot split"
    )
  if label_names is not None:
    known = set(label_names)
    missing = sorted({*split.base, *split.hidden} - known)
    if missing:
      raise ValueError(
        f"class split {name}: the dataset lacks {len(missing)} of its classes "
        f"({', '.join(missing[:10])}); it has {', '.join(sorted(known)[:30])}"
      )
  return split


def _read(path: pathlib.Path) -> ClassSplit:
  if not path.is_file():
    raise FileNotFoundError(f"{path} is not a file; expected a class split")
  lists = untrusted.read_json(path)
  parts = ("base", "validation", "novel")
  if (
    not isinstance(lists, dict)
    or set(lists) != set(parts)
    or not all(
      isinstance(part, list) and all(isinstance(n, str) for n in part)
      for part in lists.values()
    )
  ):
    raise ValueError(f"{path}: expected lists of names by the keys {parts}")
  return ClassSplit(str(path), *(tuple(lists[part]) for part in parts))


def _read_lists(path: pathlib.Path) -> ClassSplit:
  """Reads seen classes from train/NAME.list, unseen from test/NAME.list."""
  root = path.parent.parent
  parts = {part: root / part / path.name for part in ("train", "test")}
  if path not in parts.values():
    raise ValueError(f"{path}: expected .../train/NAME.list or .../test/...")
  for file in parts.values():
    if not file.is_file():
      raise FileNotFoundError(f"{file} is not a file; expected classes by line")
  seen, unseen = (
    tuple(line for _, line in text_tables.read_lines(file))
    for file in parts.values()
  )
  return ClassSplit(str(path), base=seen, validation=(), novel=unseen)


def _names(text: str) -> tuple[str, ...]:
  return tuple(" ".join(name.split()) for name in text.split(","))


# 160 / 20 / 20 classes of ActivityNet 1.3, in the dataset's own spelling. The
# division is that of the few-shot benchmark of Nag et al. (QAT, BMVC 2021).
_ACTIVITYNET = ClassSplit(
  "activitynet_160_20_20",
  base=_names(
    """
    Applying sunscreen, Archery, Arm wrestling, Assembling bicycle, Baking
    cookies, Bathing dog, Baton twirling, Beach soccer, Beer pong, Belly
    dance, Blow-drying hair, Blowing leaves, Braiding hair, Brushing teeth,
    Building sandcastles, Bullfighting, Bungee jumping, Canoeing, Capoeira,
    Carving jack-o-lanterns, Changing car wheel, Chopping wood, Clean and
    jerk, Cleaning shoes, Cleaning windows, Clipping cat claws, Cricket,
    Croquet, Cutting the grass, Decorating the Christmas tree, Disc dog,
    Discus throw, Doing a powerbomb, Doing crunches, Doing fencing, Doing
    karate, Doing kickboxing, Doing motocross, Doing nails, Doing step
    aerobics, Drinking beer, Drum corps, Elliptical trainer, Fixing bicycle,
    Fixing the roof, Fun sliding down, Futsal, Gargling mouthwash, Getting a
    haircut, Getting a piercing, Getting a tattoo, Grooming dog, Grooming
    horse, Hammer throw, Hand washing clothes, Hanging wallpaper, Having an
    ice cream, High jump, Hitting a pinata, Hopscotch, Horseback riding, Ice
    fishing, Installing carpet, Javelin throw, Kayaking, Kite flying,
    Kneeling, Knitting, Laying tile, Layup drill in basketball, Long jump,
    Longboarding, Making a cake, Making a lemonade, Making a sandwich, Mixing
    drinks, Mooping floor, Mowing the lawn, Painting, Painting fence, Painting
    furniture, Peeling potatoes, Ping-pong, Plastering, Playing accordion,
    Playing badminton, Playing bagpipes, Playing beach volleyball, Playing
    congas, Playing drums, Playing field hockey, Playing flauta, Playing ice
    hockey, Playing kickball, Playing lacrosse, Playing piano, Playing polo,
    Playing pool, Playing racquetball, Playing rubik cube, Playing saxophone,
    Playing squash, Playing ten pins, Playing violin, Playing water polo,
    Polishing shoes, Powerbocking, Preparing pasta, Putting on makeup, Putting
    on shoes, Raking leaves, Removing curlers, Removing ice from car, River
    tubing, Rock climbing, Rock-paper-scissors, Rollerblading, Roof shingle
    removal, Running a marathon, Sailing, Scuba diving, Sharpening knives,
    Shaving, Shot put, Shoveling snow, Skateboarding, Skiing, Slacklining,
    Smoking a cigarette, Smoking hookah, Snow tubing, Snowboarding, Spinning,
    Spread mulch, Springboard diving, Surfing, Swimming, Table soccer, Tai
    chi, Tango, Tennis serve with ball bouncing, Throwing darts, Trimming
    branches or hedges, Triple jump, Tug of war, Tumbling, Using parallel
    bars, Using the balance beam, Using the monkey bar, Using the pommel
    horse, Using uneven bars, Wakeboarding, Washing dishes, Washing face,
    Washing hands, Waterskiing, Welding, Windsurfing, Wrapping presents, Zumba
  """.strip()
  ),
  validation=_names(
    """
    Ballet, Brushing hair, Cheerleading, Cumbia, Curling, Dodgeball, Hula
    hoop, Ironing clothes, Paintball, Playing blackjack, Playing guitarra,
    Playing harmonica, Putting in contact lenses, Rafting, Sumo, Swinging at
    the playground, Using the rowing machine, Vacuuming floor, Volleyball,
    Waxing skis
  """.strip()
  ),
  novel=_names(
    """
    BMX, Breakdancing, Calf roping, Camel ride, Cleaning sink, Drinking
    coffee, Hand car wash, Hurling, Making an omelette, Plataform diving, Pole
    vault, Polishing forniture, Preparing salad, Riding bumper cars, Rope
    skipping, Shaving legs, Shuffleboard, Snatch, Starting a campfire, Walking
    the dog
  """.strip()
  ),
)

# The split that the builder of motion_sprites publishes.
_MOTION_SPRITES = ClassSplit(
  "motion_sprites",
  base=_names(
    """
    slides, bounces, spins, pulses, zigzags, orbits, shakes, fades, hops, grows,
    drops, squashes
  """.strip()
  ),
  validation=_names("swings, blinks, paces, rolls, spirals"),
  novel=_names("darts, shrinks, wobbles, jitters, loops"),
)

# For model selection: its "novel" classes are the validation classes of
# motion_sprites, so that nothing is selected on the novel ones.
_MOTION_SPRITES_CHOOSING = ClassSplit(
  "motion_sprites_choosing",
  base=_MOTION_SPRITES.base,
  validation=(),
  novel=_MOTION_SPRITES.validation,
)

# For the variant motion_sprites/tiny-classes_6, whose few videos have all six.
_MOTION_SPRITES_SIX = ClassSplit(
  "motion_sprites_six",
  base=_names("slides, rolls, hops, bounces"),
  validation=(),
  novel=_names("zigzags, paces"),
)

CLASS_SPLITS = {
  split.name: split
  for split in (
    _ACTIVITYNET,
    _MOTION_SPRITES,
    _MOTION_SPRITES_CHOOSING,
    _MOTION_SPRITES_SIX,
  )
}
# Ten random divisions of the classes of a split, SPLIT_0 to SPLIT_9, with seen
# and unseen classes in the ratio of the name. Each line of
# unseen_classes/SPLIT.txt has the unseen classes of one.
REDIVIDED = {
  "motion_sprites_75_25": _MOTION_SPRITES,
  "motion_sprites_50_50": _MOTION_SPRITES,
}


def _redivided(name: str) -> ClassSplit:
  family, _, number = name.rpartition("_")
  folder = importlib.resources.files("clap_jax.data") / "unseen_classes"
  lines = (folder / f"{family}.txt").read_text("utf-8").splitlines()
  if not number.isdecimal() or int(number) >= len(lines):
    raise ValueError(
      f"unknown class split {name!r}; {family} has the numbers 0 to "
      f"{len(lines) - 1}"
    )
  unseen = _names(lines[int(number)])
  split = REDIVIDED[family]
  seen = (n for n in (*split.base, *split.hidden) if n not in unseen)
  return ClassSplit(name, base=tuple(seen), validation=(), novel=unseen)
