"""TFDS builder of motion_sprites: packs the rendered mp4 files verbatim."""

import pathlib
from collections.abc import Iterator
from typing import ClassVar

import tensorflow_datasets as tfds

from tfds_builders import packing, schema
from tfds_builders.motion_sprites import render, sizes, verbs

_DESCRIPTION = """
Untrimmed videos of several sprites over textured, moving backdrops. At times
one of them performs an action that only its motion tells from the others.
"""


class Builder(schema.VideoBuilder):
  """Named sizes `tiny`, `demo` and `full`; see sizes.py."""

  BUILDER_CONFIGS: ClassVar[list[tfds.core.BuilderConfig]] = [
    tfds.core.BuilderConfig(name=name) for name in sizes.CONFIGS
  ]

  def __init__(
    self,
    *,
    rendered_dir: str | None = None,
    subset: int | None = None,
    **kwargs,
  ):
    """Makes the builder.

    Args:
      rendered_dir: what `render.render` wrote, or will; by default
        `rendered/motion_sprites/<size>` under the data folder.
      subset: at most that many videos per split.
      **kwargs: see `schema.VideoBuilder`.
    """
    self._rendered_dir = rendered_dir
    self._subset = subset
    super().__init__(**kwargs)

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description=_DESCRIPTION,
      features=schema.make_features(verbs.CLASS_NAMES),
    )

  def _split_generators(self, dl_manager) -> dict:
    del dl_manager  # nothing is ever downloaded
    name = self.builder_config.name
    rendered_dir = pathlib.Path(
      self._rendered_dir
      or pathlib.Path(self._data_dir_root, "rendered", "motion_sprites", name)
    )
    document = render.render(
      sizes.get_config(name),
      rendered_dir,
      limit=self._subset,
      on_progress=lambda done, total: self._on_progress("render", done, total),
    )
    self._done, self._total = 0, len(document["database"])
    return {
      split: self._generate_examples(document, rendered_dir, split)
      for split in sizes.SPLITS
    }

  def _generate_examples(
    self, document: dict, rendered_dir: pathlib.Path, split: str
  ) -> Iterator[tuple[str, dict]]:
    manifest = self.manifests.setdefault(split, packing.new_manifest(split))
    for video_id, entry in document["database"].items():
      if entry["subset"] != split:
        continue
      path = rendered_dir / split / f"{video_id}.mp4"
      self._done += 1
      self._on_progress("pack", self._done, self._total)
      record = packing.make_record(
        video_id,
        path.read_bytes(),
        fps=entry["fps"],
        duration_sec=entry["duration"],
        num_frames=entry["num_frames"],
        height=entry["height"],
        width=entry["width"],
        segments=[(*a["segment"], a["label"]) for a in entry["annotations"]],
        captions=[(*c["segment"], c["text"]) for c in entry["captions"]],
      )
      packing.add_to_manifest(manifest, record)
      yield video_id, record
