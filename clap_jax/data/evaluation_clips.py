"""Fixed lists of clips for evaluation: nothing random, every one once."""

from collections.abc import Collection, Sequence

import numpy as np

from clap_jax.data.clips import (
  NO_CLASS_ID,
  ClipItem,
  readable_label,
  visible_captions,
)
from clap_jax.data.records import ExampleInfo


def caption_clips(
  examples: Sequence[ExampleInfo],
  *,
  clip_sec: float,
  hidden_classes: frozenset[int] = frozenset(),
  hidden_names: Collection[str] = (),
) -> list[ClipItem]:
  """One clip per caption, in its middle, with its text: for retrieval.

  The class is that of the segment with the largest overlap, -1 without one.
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


def segment_clips(
  examples: Sequence[ExampleInfo],
  *,
  clip_sec: float,
  clips_per_segment: int,
  label_names: Sequence[str],
  include_background: bool = False,
  hidden_classes: frozenset[int] = frozenset(),
) -> list[ClipItem]:
  """Equally spaced clips of each segment, the label as text.

  Background spans, if included, have class -1 and no text.
  """
  if clips_per_segment < 1:
    raise ValueError(f"clips_per_segment is {clips_per_segment}, expected >= 1")
  items = []
  for example in examples:
    spans = [
      (start_sec, end_sec, int(label))
      for (start_sec, end_sec), label in zip(
        example.segments.tolist(), example.labels, strict=True
      )
      if int(label) not in hidden_classes
    ]
    if include_background:
      spans += [(*span, NO_CLASS_ID) for span in example.background.tolist()]
    for start_sec, end_sec, label in spans:
      is_action = label != NO_CLASS_ID
      text = readable_label(label_names[label]) if is_action else ""
      items += [
        ClipItem(
          record_index=example.index,
          start_sec=clip_start_sec,
          end_sec=clip_start_sec + clip_sec,
          is_action=is_action,
          class_id=label,
          text=text,
          caption_start_sec=start_sec if is_action else 0.0,
          caption_end_sec=end_sec if is_action else 0.0,
        )
        for clip_start_sec in _spread(
          start_sec, end_sec, clip_sec, clips_per_segment, example
        )
      ]
  return items


def _centre(
  start_sec: float, end_sec: float, clip_sec: float, example: ExampleInfo
) -> float:
  latest_sec = max(0.0, example.duration_sec - clip_sec)
  return min(max(0.0, (start_sec + end_sec - clip_sec) / 2), latest_sec)


def _spread(
  start_sec: float,
  end_sec: float,
  clip_sec: float,
  num_clips: int,
  example: ExampleInfo,
) -> list[float]:
  """Starts at equal distances, symmetric in the segment."""
  slack_sec = end_sec - start_sec - clip_sec
  if slack_sec <= 0 or num_clips == 1:
    return [_centre(start_sec, end_sec, clip_sec, example)] * num_clips
  steps = (np.arange(num_clips) + 0.5) / num_clips
  return [float(start_sec + step * slack_sec) for step in steps]


def _dominant_label(
  example: ExampleInfo, start_sec: float, end_sec: float
) -> int:
  if not len(example.segments):
    return NO_CLASS_ID
  starts, ends = example.segments[:, 0], example.segments[:, 1]
  overlaps = np.minimum(ends, end_sec) - np.maximum(starts, start_sec)
  best = int(np.argmax(overlaps))
  return int(example.labels[best]) if overlaps[best] > 0 else NO_CLASS_ID
