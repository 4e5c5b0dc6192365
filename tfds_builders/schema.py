"""Defines the record schema of all builders."""

from collections.abc import Sequence

import numpy as np
import tensorflow_datasets as tfds


def make_features(class_names: Sequence[str]) -> tfds.features.FeaturesDict:
  """Defines one example per video; times in seconds, spans are [start, end).

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
