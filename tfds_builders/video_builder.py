"""Defines the base class of the TFDS builders of all datasets."""

import inspect
import pathlib
import tempfile
import types
from collections.abc import Iterable, Iterator
from typing import ClassVar

import tensorflow_datasets as tfds

from tfds_builders import collection, schema, shards, transcoding


class VideoBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """TFDS builder of a plan of videos; see `collection.Plan`.

  `tfds_builders.build` writes the shards in parallel and uses this class only
  for the dataset's description; TFDS's `download_and_prepare` works too, one
  video after the other. Without a plan a builder only has a description.
  """

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First version."}
  DESCRIPTION: ClassVar[str] = ""

  def __init__(self, *, plan: collection.Plan | None = None, **kwargs):
    """Creates a builder; other arguments are those of TFDS."""
    self.plan = plan
    super().__init__(**kwargs)

  def _info(self) -> tfds.core.DatasetInfo:
    citations = pathlib.Path(inspect.getfile(type(self))).with_name(
      "CITATIONS.bib"
    )
    return tfds.core.DatasetInfo(
      builder=self,
      description=self.DESCRIPTION,
      features=schema.make_features(self.plan.class_names if self.plan else []),
      citation=citations.read_text("utf-8") if citations.exists() else None,
    )

  def _split_generators(self, dl_manager) -> dict:
    del dl_manager  # nothing is ever downloaded
    if self.plan is None:
      raise ValueError(
        "there is nothing to build: call tfds_builders.build.build, or pass "
        "`plan`"
      )
    return {
      split: self._generate_examples(items)
      for split, items in self.plan.items.items()
    }

  def _generate_examples(self, items) -> Iterator[tuple[str, dict]]:
    with tempfile.TemporaryDirectory() as scratch:
      for item in items:
        _, record = shards.pack_item(
          item,
          limits=transcoding.StoreLimits(),
          scratch=pathlib.Path(scratch),
          has_classes=bool(self.plan.class_names),
        )
        if record is not None:
          yield item.id, record

  # TFDS prints these two despite all log settings; callers show progress, and
  # nothing is ever downloaded.
  def _log_download_done(self) -> None:
    pass

  def _log_download_bytes(self) -> None:
    pass


def make(
  module: str, description: str, *, configs: Iterable[str] = ()
) -> type[VideoBuilder]:
  """Makes the builder class of a dataset's module, which gives it its name.

  The module also has `read(files, config)`, which reads local annotation files.
  It raises a FileNotFoundError if one is missing, and a ValueError if one is
  malformed.
  """
  return types.new_class(
    "Builder",
    (VideoBuilder,),
    exec_body=lambda namespace: namespace.update(
      __module__=module,
      DESCRIPTION=description,
      BUILDER_CONFIGS=[tfds.core.BuilderConfig(name=name) for name in configs],
    ),
  )
