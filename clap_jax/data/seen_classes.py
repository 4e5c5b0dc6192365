"""Removes held-out classes from training sequences."""

import numpy as np

from clap_jax.data.feature_sources import (
  LocalizationExample,
  LocalizationSource,
)
from clap_jax.data.feature_windows import Window


class SeenClassesSource(LocalizationSource):
  """Yields training sequences of a class-agnostic localizer: all labels 0.

  Segments of hidden classes are neither actions nor background: features of
  clips that overlap one are masked.
  """

  def __init__(self, examples, features, *, hidden_classes, **others):
    super().__init__(
      examples, features, hidden_classes=hidden_classes, **others
    )
    self._hidden = {}
    for info in examples:
      if info.id in features:
        grid = features[info.id].grid
        hidden = np.isin(info.labels, sorted(hidden_classes))
        reach = 0.5 * grid.clip_sec / grid.stride_sec
        spans = grid.to_grid(info.segments[hidden].astype(np.float64))
        self._hidden[info.id] = spans.reshape(-1, 2) + np.array([-reach, reach])

  def _example(self, index: int, window: Window) -> LocalizationExample:
    example = super()._example(index, window)
    spans = self._hidden[self._videos[index].id] - window.start
    steps = np.arange(len(example.mask))[:, None]
    is_hidden = ((spans[:, 0] <= steps) & (steps <= spans[:, 1])).any(axis=1)
    mask = example.mask & ~is_hidden
    return example._replace(
      features=np.where(mask[:, None], example.features, 0.0),
      mask=mask,
      labels=np.zeros_like(example.labels),
    )
