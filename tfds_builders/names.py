"""Names of datasets; imports nothing heavy."""

import importlib
import types

from tfds_builders.motion_sprites import sizes

# Forms in which videos are stored.
STORES = ("h264", "jpeg", "original")
# Published datasets and their configs; "" if there is only one.
ANNOTATED = {
  "activitynet": ("localization", "captions"),
  "charades": ("",),
  "charades_sta": ("",),
  "didemo": ("",),
  "ego4d": ("mq", "nlq"),
  "epic_kitchens_100": ("verb", "noun"),
  "epic_sounds": ("",),
  "fineaction": ("",),
  "hacs": ("",),
  "multithumos": ("",),
  "qvhighlights": ("",),
  "tacos": ("",),
  "thumos14": ("",),
  "youcook2": ("",),
}
# Datasets of the user's own videos, under any name.
OWN = ("folder", "trimmed")
RUNNERS = ("threads", "beam")
NAMES = (
  *(f"motion_sprites/{size}" for size in sizes.CONFIGS),
  *(
    "/".join(filter(None, (name, config)))
    for name, configs in ANNOTATED.items()
    for config in configs
  ),
  "folder",
  "folder/<your name for it>",
  "trimmed",
  "trimmed/<your name for it>",
)


def builder_module(base: str) -> types.ModuleType:
  """Returns the module of a dataset's builder; its `read` reads annotations."""
  return importlib.import_module(f"tfds_builders.{base}.{base}_dataset_builder")
