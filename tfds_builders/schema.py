"""The record schema that every builder writes, and what builders share."""

from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds

Progress = Callable[[str, int, int], None]  # stage, videos done, in all


def make_features(class_names: Sequence[str]) -> tfds.features.FeaturesDict:
  """One example per video; times in seconds, spans are [start, end).

  `video` is one complete mp4 (H.264, yuv420p, closed groups of 16 frames, no
  B-frames, index in front); `background` holds the maximal spans longer than
  half a second that no segment covers.
  """
  span = {"start_sec": np.float32, "end_sec": np.float32}
  return tfds.features.FeaturesDict(
    {
      "id": tfds.features.Text(),
      "video": tfds.features.Tensor(shape=(), dtype=np.object_),
      "fps": np.float32,
      "duration_sec": np.float32,
      "num_frames": np.int32,
      "height": np.int32,
      "width": np.int32,
      "segments": tfds.features.Sequence(
        {**span, "label": tfds.features.ClassLabel(names=list(class_names))}
      ),
      "captions": tfds.features.Sequence(
        {**span, "text": tfds.features.Text()}
      ),
      "background": tfds.features.Sequence(dict(span)),
    }
  )


class VideoBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """A builder that reports progress and keeps a manifest per split."""

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First version."}

  def __init__(self, *, on_progress: Progress | None = None, **kwargs):
    """Takes TFDS's own arguments besides `on_progress`."""
    self._on_progress = on_progress or (lambda stage, done, total: None)
    self.manifests: dict[str, dict] = {}
    self.unlisted: list[str] = []  # files in sight that were not asked for
    super().__init__(**kwargs)

  # TFDS prints these two past every log setting; the callers show progress,
  # and nothing here is ever downloaded.
  def _log_download_done(self) -> None:
    pass

  def _log_download_bytes(self) -> None:
    pass
