"""Names of datasets; imports nothing heavy."""

import importlib
import types

from tfds_builders.motion_sprites import sizes

# The form in which a video is kept.
STORES = ("h264", "jpeg", "original")
# Datasets of the field and their configs; "" where there is but one form.
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
# Of the user's own videos, under any name of the user's.
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
  """The module of a dataset's builder; `read` in it reads annotations."""
  return importlib.import_module(f"tfds_builders.{base}.{base}_dataset_builder")
