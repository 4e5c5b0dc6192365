"""The named sizes of motion_sprites."""

import dataclasses

SPLITS = ("train", "selection", "validation")


@dataclasses.dataclass(frozen=True)
class SpritesConfig:
  """How many videos of which length, rate and size.

  Every video draws its rate from `fps` and its side from `size_px`.
  """

  name: str
  num_videos: dict[str, int]  # per split
  duration_sec: tuple[float, float]
  fps: tuple[int, ...]
  size_px: tuple[int, ...]  # square; even, for 4:2:0 chroma
  gap_sec: tuple[float, float] = (1.5, 5.0)  # between the actions
  seed: int = 0


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


def get_config(name: str) -> SpritesConfig:
  """The named size.

  Raises:
    ValueError: if there is no such size.
  """
  if name not in CONFIGS:
    raise ValueError(
      f"motion_sprites has no size {name!r}; choose one of {', '.join(CONFIGS)}"
    )
  return CONFIGS[name]
