"""TFDS builder of a folder of videos with an annotation file."""

from collections.abc import Iterator

import tensorflow_datasets as tfds

from tfds_builders import packing, schema
from tfds_builders.folder import collection

_DESCRIPTION = "Your own videos with your own annotations."


class Builder(schema.VideoBuilder):
  """Packs what `collection.collect` brought together.

  Splits are the subsets of the annotation file; a subset none of whose videos
  can be used has a manifest but no split.
  """

  def __init__(
    self, *, collected: collection.Collected | None = None, **kwargs
  ):
    """Makes the builder.

    Args:
      collected: the videos; not needed to read a finished dataset.
      **kwargs: see `schema.VideoBuilder`.
    """
    self._collected = collected
    super().__init__(**kwargs)
    if collected:
      self.manifests = collected.manifests
      self.unlisted = collected.unlisted

  def _info(self) -> tfds.core.DatasetInfo:
    names = self._collected.class_names if self._collected else []
    return tfds.core.DatasetInfo(
      builder=self,
      description=_DESCRIPTION,
      features=schema.make_features(names),
    )

  def _split_generators(self, dl_manager) -> dict:
    del dl_manager  # nothing is ever downloaded
    if self._collected is None:
      raise ValueError(
        "the folder builder needs videos and annotations: "
        "call tfds_builders.build.build('folder', ...)"
      )
    self._done = 0
    self._total = sum(len(v) for v in self._collected.videos.values())
    return {
      split: self._generate_examples(videos, self.manifests[split])
      for split, videos in sorted(self._collected.videos.items())
    }

  def _generate_examples(
    self, videos: list[dict], manifest: dict
  ) -> Iterator[tuple[str, dict]]:
    for video in videos:
      facts = dict(video)
      path, video_id = facts.pop("path"), facts.pop("video_id")
      record = packing.make_record(video_id, path.read_bytes(), **facts)
      packing.add_to_manifest(manifest, record)
      self._done += 1
      self._on_progress("pack", self._done, self._total)
      yield video_id, record
