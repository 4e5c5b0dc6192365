"""Finds the action and background regions from which clips are sampled."""

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from clap_jax.data import class_leakage
from clap_jax.data.records import ExampleInfo

NO_CLASS_ID = -1
# Minimum share of action in a clip across a boundary.
_CROSSING_SHARES = (0.2, 0.8)


@dataclasses.dataclass(frozen=True)
class Region:
  """A span to draw clips from, and its example."""

  example: ExampleInfo
  start_sec: float
  end_sec: float
  class_id: int
  # Clips must stay in this span: hidden classes are visible beyond it.
  free_start_sec: float = 0.0
  free_end_sec: float = math.inf
  is_captioned: bool = False  # an action that has a caption and no class

  @property
  def is_action(self) -> bool:
    return self.has_class or self.is_captioned

  @property
  def has_class(self) -> bool:
    return self.class_id != NO_CLASS_ID

  @property
  def span(self) -> tuple[float, float]:
    return self.start_sec, self.end_sec


def action_regions(
  examples: Sequence[ExampleInfo],
  *,
  clip_sec: float,
  hidden_classes: frozenset[int],
) -> list[Region]:
  return _without_hidden(
    [
      Region(example, float(start_sec), float(end_sec), int(label))
      for example in examples
      for (start_sec, end_sec), label in zip(
        example.segments, example.labels, strict=True
      )
      if int(label) not in hidden_classes
    ],
    clip_sec=clip_sec,
    hidden_classes=hidden_classes,
  )


def background_regions(
  examples: Sequence[ExampleInfo],
  *,
  clip_sec: float,
  hidden_classes: frozenset[int],
) -> list[Region]:
  """Returns background spans of at least half a clip."""
  return _without_hidden(
    [
      Region(example, float(start_sec), float(end_sec), NO_CLASS_ID)
      for example in examples
      for start_sec, end_sec in example.background
      if end_sec - start_sec >= clip_sec / 2
    ],
    clip_sec=clip_sec,
    hidden_classes=hidden_classes,
  )


def _without_hidden(
  regions: list[Region], *, clip_sec: float, hidden_classes: frozenset[int]
) -> list[Region]:
  """Cuts regions to the parts whose clips see no hidden class.

  A proper part shorter than half a clip is dropped.
  """
  if not hidden_classes:
    return regions
  clear = []
  for region in regions:
    hidden = class_leakage.hidden_spans(region.example, hidden_classes)
    if not hidden:
      clear.append(region)
      continue
    for free_start_sec, free_end_sec in class_leakage.free_spans(
      hidden, end_sec=region.example.duration_sec
    ):
      part = dataclasses.replace(
        region,
        start_sec=max(region.start_sec, free_start_sec),
        end_sec=min(region.end_sec, free_end_sec),
        free_start_sec=free_start_sec,
        free_end_sec=free_end_sec,
      )
      length_sec = part.end_sec - part.start_sec
      is_whole = part.span == region.span
      if free_end_sec - free_start_sec >= clip_sec and (
        (is_whole and length_sec > 0) or length_sec >= clip_sec / 2
      ):
        clear.append(part)
  return clear


def draw_start(region: Region, clip_sec: float, fraction: float) -> float:
  """Draws a start >= 0: uniform if the clip fits, else centred.

  A clip that would exceed the video or the free span is moved back.
  """
  slack_sec = region.end_sec - region.start_sec - clip_sec
  if slack_sec >= 0:
    return region.start_sec + fraction * slack_sec
  last_sec = min(region.example.duration_sec, region.free_end_sec)
  earliest_sec = region.free_start_sec
  latest_sec = max(earliest_sec, last_sec - clip_sec)
  return min(max(earliest_sec, region.start_sec + slack_sec / 2), latest_sec)


class Crossing(NamedTuple):
  """The start of a clip that crosses a boundary, and its share of action."""

  start_sec: float
  action_share: float


def draw_crossing(
  region: Region, clip_sec: float, rng: np.random.Generator
) -> Crossing | None:
  """Draws a clip across an action's start or end, with background around.

  Tries both boundaries in random order. Returns None if the clip would leave
  the video or the free span, or would see another action.
  """
  inside_sec = rng.uniform(*_CROSSING_SHARES) * clip_sec
  starts_sec = [
    region.start_sec - (clip_sec - inside_sec),
    region.end_sec - inside_sec,
  ]
  if rng.random() < 0.5:
    starts_sec.reverse()
  for start_sec in starts_sec:
    if _sees_only(region, start_sec, start_sec + clip_sec):
      covered_sec = overlap_sec(region.span, (start_sec, start_sec + clip_sec))
      return Crossing(start_sec, covered_sec / clip_sec)
  return None


def _sees_only(region: Region, start_sec: float, end_sec: float) -> bool:
  """Returns True if a span lies in the free span and has no other action."""
  last_sec = min(region.example.duration_sec, region.free_end_sec)
  if start_sec < max(0.0, region.free_start_sec) or end_sec > last_sec:
    return False
  return not any(
    overlap_sec(segment, (start_sec, end_sec)) > 0
    for segment in region.example.segments
    if tuple(map(float, segment)) != region.span
  )


def overlap_sec(first: Sequence, second: Sequence) -> float:
  """Returns the overlap of two spans in seconds; negative for a gap."""
  return min(first[1], second[1]) - max(first[0], second[0])
