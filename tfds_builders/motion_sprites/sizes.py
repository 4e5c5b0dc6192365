"""Defines sizes of motion_sprites, and variants with changed properties.

A variant is named SIZE-PARAMETER_VALUE, with one or more parameters:
demo-gaps_2, demo-distractors_0-noise_0.1. It uses the same random numbers.
"""

import dataclasses
import math

SPLITS = ("train", "selection", "validation")


@dataclasses.dataclass(frozen=True)
class SpritesConfig:
  """The number, length, rate and size of videos.

  Every video draws its rate from `fps` and its side from `size_px`.
  """

  name: str
  num_videos: dict[str, int]  # per split
  duration_sec: tuple[float, float]
  fps: tuple[int, ...]
  size_px: tuple[int, ...]  # square; even, for 4:2:0 chroma
  gap_sec: tuple[float, float] = (1.5, 5.0)  # between the actions
  seed: int = 0
  distractors: float = 1.0  # movement that is no action; 0 none, 1 as usual
  num_classes: int | None = (
    None  # number of verbs, the first ones; None for all
  )
  # Boundaries outside of validation move by up to this share of the action.
  boundary_noise: float = 0.0
  ambiguity: float = 0.0  # share of train's action captions that are vague
  near_misses: float = 0.0  # per event between actions; see near_misses.py

  @property
  def size(self) -> str:
    """Returns the size, also of a variant."""
    return self.name.partition("-")[0]


CONFIGS: dict[str, SpritesConfig] = {
  "tiny": SpritesConfig(
    name="tiny",
    num_videos={"train": 8, "selection": 3, "validation": 4},
    duration_sec=(8.0, 12.0),
    fps=(8,),
    size_px=(48,),
    gap_sec=(0.7, 1.8),
  ),
  "demo": SpritesConfig(
    name="demo",
    num_videos={"train": 320, "selection": 40, "validation": 80},
    duration_sec=(20.0, 30.0),
    fps=(8,),
    size_px=(64,),
  ),
  "full": SpritesConfig(
    name="full",
    num_videos={"train": 18_000, "selection": 1_000, "validation": 1_000},
    duration_sec=(20.0, 60.0),
    fps=(8, 10, 12, 15),
    size_px=(64, 80, 96, 112),
  ),
}


def _longer_gaps(config: SpritesConfig, value: float) -> SpritesConfig:
  gaps = tuple(value * gap_sec for gap_sec in config.gap_sec)
  return dataclasses.replace(config, gap_sec=gaps)


def _fewer_classes(config: SpritesConfig, value: float) -> SpritesConfig:
  return dataclasses.replace(config, num_classes=int(value))


def _more_videos(config: SpritesConfig, value: float) -> SpritesConfig:
  counts = {s: round(value * n) for s, n in config.num_videos.items()}
  return dataclasses.replace(config, num_videos=counts)


def _more_selection(config: SpritesConfig, value: float) -> SpritesConfig:
  counts = dict(config.num_videos)
  counts["selection"] = round(value * counts["selection"])
  return dataclasses.replace(config, num_videos=counts)


def _setting(field: str):
  return lambda config, value: dataclasses.replace(config, **{field: value})


# Parameter -> (minimum, maximum, function that changes a size).
PARAMETERS = {
  "gaps": (0.1, 10.0, _longer_gaps),  # factor on the time between actions
  "distractors": (0.0, 3.0, _setting("distractors")),
  "classes": (2, 22, _fewer_classes),
  "noise": (0.0, 0.45, _setting("boundary_noise")),
  "ambiguity": (0.0, 1.0, _setting("ambiguity")),
  "near_misses": (0.0, 3.0, _setting("near_misses")),
  "videos": (0.5, 100.0, _more_videos),  # factor on the videos of each split
  "selection": (1.0, 100.0, _more_selection),  # factor on its videos alone
}


def get_config(name: str) -> SpritesConfig:
  """Returns a size or variant by name.

  Raises:
    ValueError: the size or parameter is unknown, or a value is out of range.
  """
  size, *changes = name.split("-")
  if size not in CONFIGS:
    raise ValueError(
      f"motion_sprites has no size {name!r}; choose one of "
      f"{', '.join(CONFIGS)}, with -PARAMETER_VALUE for a variant"
    )
  config = CONFIGS[size]
  for change in changes:
    config = _changed(config, change, name)
  return dataclasses.replace(config, name=name)


def _changed(config: SpritesConfig, change: str, name: str) -> SpritesConfig:
  parameter = next(
    (key for key in PARAMETERS if change.startswith(f"{key}_")),
    change.partition("_")[0],
  )
  text = change[len(parameter) + 1 :]
  if parameter not in PARAMETERS:
    raise ValueError(
      f"{name!r}: motion_sprites has no parameter {parameter!r}; choose one of "
      f"{', '.join(PARAMETERS)}"
    )
  low, high, apply = PARAMETERS[parameter]
  try:
    value = float(text)
  except ValueError:
    value = math.nan
  if not low <= value <= high:
    raise ValueError(
      f"{name!r}: {parameter} must be a number from {low} to {high}, got "
      f"{text!r}"
    )
  return apply(config, value)
