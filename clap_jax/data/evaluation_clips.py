"""Lists evaluation clips in a fixed order, each exactly once."""

from collections.abc import Collection, Sequence

import numpy as np

from clap_jax.data.clips import NO_CLASS_ID, ClipItem, visible_captions
from clap_jax.data.records import ExampleInfo


def caption_clips(
  examples: Sequence[ExampleInfo],
  *,
  clip_sec: float,
  hidden_classes: frozenset[int] = frozenset(),
  hidden_names: Collection[str] = (),
) -> list[ClipItem]:
  """Returns one clip with text at the middle of each caption.

  The class is that of the segment with the largest overlap, -1 if none.
  """
  items = []
  for example in examples:
    for start_sec, end_sec, text in visible_captions(
      example, hidden_classes, hidden_names=hidden_names
    ):
      clip_start_sec = _centre(start_sec, end_sec, clip_sec, example)
      label = _dominant_label(example, start_sec, end_sec)
      items.append(
        ClipItem(
          record_index=example.index,
          start_sec=clip_start_sec,
          end_sec=clip_start_sec + clip_sec,
          is_action=label != NO_CLASS_ID,
          class_id=label,
          text=text,
          caption_start_sec=start_sec,
          caption_end_sec=end_sec,
        )
      )
  return items


def _centre(
  start_sec: float, end_sec: float, clip_sec: float, example: ExampleInfo
) -> float:
  latest_sec = max(0.0, example.duration_sec - clip_sec)
  return min(max(0.0, (start_sec + end_sec - clip_sec) / 2), latest_sec)


def _dominant_label(
  example: ExampleInfo, start_sec: float, end_sec: float
) -> int:
  if not len(example.segments):
    return NO_CLASS_ID
  starts, ends = example.segments[:, 0], example.segments[:, 1]
  overlaps = np.minimum(ends, end_sec) - np.maximum(starts, start_sec)
  best = int(np.argmax(overlaps))
  return int(example.labels[best]) if overlaps[best] > 0 else NO_CLASS_ID
