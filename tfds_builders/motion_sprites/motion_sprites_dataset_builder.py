"""TFDS builder of motion_sprites: packs the rendered mp4 files verbatim."""

import pathlib

from clap_jax.annotations.annotation_file import Span
from clap_jax.storage import locations
from tfds_builders import collection, packing, video_builder
from tfds_builders.motion_sprites import sizes

_FACTS = ("fps", "num_frames", "height", "width")


Builder = video_builder.make(
  __name__,
  "Untrimmed videos of several sprites over textured, moving backdrops. At "
  "times one of them performs an action that only its motion tells from the "
  "others.",
  configs=sizes.CONFIGS,
)


def make_plan(document: dict, rendered: pathlib.Path) -> collection.Plan:
  """Returns the plan of a folder written by `render.render`."""
  items = {split: [] for split in sizes.SPLITS}
  for video_id, entry in document["database"].items():
    items[entry["subset"]].append(_make_item(video_id, entry, rendered))
  for split, group in items.items():
    group.sort(key=lambda item: collection.record_order(item.id, split))
  manifests = {split: packing.new_manifest(split) for split in sizes.SPLITS}
  return collection.Plan(items, manifests, document["classes"], [])


def _make_item(video_id, entry, rendered):
  split = entry["subset"]
  path = pathlib.Path(rendered, split, f"{video_id}.mp4").absolute()
  return collection.Item(
    id=video_id,
    split=split,
    path=path,
    version=locations.version(path),
    segments=tuple(
      Span(*a["segment"], a["label"], video_id) for a in entry["annotations"]
    ),
    captions=tuple(
      Span(*c["segment"], c["text"], video_id) for c in entry["captions"]
    ),
    expected_duration_sec=entry["duration"],
    expected_frames=entry["num_frames"],
    facts={
      "duration_sec": entry["duration"],
      **{key: entry[key] for key in _FACTS},
    },
  )
