"""Lays out a video's timeline: truth above predictions on one time axis.

Positions are percentages of the video's duration, so that the page can draw a
timeline at any width. Overlapping segments are stacked in lanes.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from clap_jax.metrics import overlap
from clap_jax.report import content, curves, images

HIT_TIOU = 0.5  # predictions with at least this tIoU get a tick mark
MAX_ACTIONS = 10  # predictions drawn and judged per row
MAX_MOMENTS = 5  # the same for a query
_STRIP_ASPECT = 14.0  # width of a strip over its height


@dataclasses.dataclass(frozen=True)
class Bar:
  """One segment, placed."""

  left_percent: float
  width_percent: float
  lane: int
  label: str
  score: str
  title: str  # the tooltip
  hue: int | None  # None: the colour of moments, which have no class
  alpha: float
  hit: bool
  segment: content.Segment
  tiou: float | None  # with the best truth of the same label; None: no truth


@dataclasses.dataclass(frozen=True)
class Row:
  """The segments of one source, in lanes."""

  name: str
  kind: str  # "truth" or "prediction"
  bars: tuple[Bar, ...]
  num_lanes: int
  num_hidden: int  # predictions of lower score that are not drawn
  verdict: str  # "3 of 4"; empty without ground truth

  @property
  def summary(self) -> str:
    """Describes the row in words, for screen readers."""
    if not self.bars:
      return f"{self.name}: nothing"
    return f"{self.name}: " + "; ".join(bar.title for bar in self.bars)


@dataclasses.dataclass(frozen=True)
class Panel:
  """Rows that share a subject: the actions, or one query."""

  query: str  # empty for the actions
  absent: bool | None
  rows: tuple[Row, ...]


@dataclasses.dataclass(frozen=True)
class Frame:
  """A thumbnail."""

  uri: str
  time_sec: float


@dataclasses.dataclass(frozen=True)
class Timeline:
  """A video, ready to draw."""

  video: content.VideoTimeline
  frames: tuple[Frame, ...]
  ticks: tuple[tuple[float, str], ...]  # (left percent, label)
  panels: tuple[Panel, ...]


def layout(
  video: content.VideoTimeline,
  *,
  hues: Mapping[str, int],
  thumbnail_height: int,
) -> Timeline:
  """Lays out the ground truth and predictions of a video.

  Draws and judges the `MAX_ACTIONS` (for a query `MAX_MOMENTS`) best scores of
  each prediction track; counts the others.
  """
  panels = []
  if video.ground_truth or video.tracks or not video.queries:
    rows = _rows(
      video,
      video.ground_truth,
      video.tracks,
      hues=hues,
      keep=MAX_ACTIONS,
      found_word="actions",
    )
    panels.append(Panel("", None, rows))
  for query in video.queries:
    moments = [dataclasses.replace(m, label="") for m in query.moments]
    tracks = [
      dataclasses.replace(
        track,
        segments=[dataclasses.replace(s, label="") for s in track.segments],
      )
      for track in query.tracks
    ]
    rows = _rows(
      video, moments, tracks, hues=hues, keep=MAX_MOMENTS, found_word="moments"
    )
    panels.append(Panel(query.text, query.absent, rows))
  return Timeline(
    video=video,
    frames=_frames(video, height=thumbnail_height),
    ticks=_ticks(video.duration_sec),
    panels=tuple(panels),
  )


def tiou(first: content.Segment, second: content.Segment) -> float:
  """Computes the tIoU of two segments; 0 if both are empty."""
  ends = [
    np.array([segment.start_sec, segment.end_sec], np.float64)
    for segment in (first, second)
  ]
  return float(overlap.iou(*ends, empty_pair=0.0))


def assign_lanes(segments: Sequence[content.Segment]) -> list[int]:
  """Assigns the first free lane to each segment, in order."""
  taken: list[list[content.Segment]] = []
  lanes = []
  for segment in segments:
    free = (
      index
      for index, others in enumerate(taken)
      if all(_apart(segment, other) for other in others)
    )
    lane = next(free, len(taken))
    if lane == len(taken):
      taken.append([])
    taken[lane].append(segment)
    lanes.append(lane)
  return lanes


def _apart(first: content.Segment, second: content.Segment) -> bool:
  return first.end_sec <= second.start_sec or second.end_sec <= first.start_sec


def _rows(
  video: content.VideoTimeline,
  truth: Sequence[content.Segment],
  tracks: Sequence[content.Track],
  *,
  hues: Mapping[str, int],
  keep: int,
  found_word: str,
) -> tuple[Row, ...]:
  rows = []
  if truth or video.ground_truth:
    ordered = sorted(truth, key=lambda s: (s.start_sec, s.end_sec))
    bars = _bars(video, ordered, truth=None, hues=hues)
    rows.append(Row("ground truth", "truth", bars, _lanes(bars), 0, ""))
  for track in tracks:
    ranked = sorted(track.segments, key=lambda s: -(s.score or 0.0))
    drawn = ranked[:keep]
    bars = _bars(video, drawn, truth=truth, hues=hues)
    verdict = ""
    if truth:
      found = sum(
        any(s.label == t.label and tiou(s, t) >= HIT_TIOU for s in drawn)
        for t in truth
      )
      verdict = f"{found} of {len(truth)} {found_word} found"
      if len(truth) == 1:
        verdict = "found" if found else "not found"
    rows.append(
      Row(
        track.name,
        "prediction",
        bars,
        _lanes(bars),
        len(ranked) - len(drawn),
        verdict,
      )
    )
  return tuple(rows)


def _lanes(bars: Sequence[Bar]) -> int:
  return 1 + max((bar.lane for bar in bars), default=0)


def _bars(
  video: content.VideoTimeline,
  segments: Sequence[content.Segment],
  *,
  truth: Sequence[content.Segment] | None,
  hues: Mapping[str, int],
) -> tuple[Bar, ...]:
  """Places `segments` as bars, judged against `truth` if there is any."""
  top = max((segment.score or 0.0 for segment in segments), default=0.0)
  bars = []
  for segment, lane in zip(segments, assign_lanes(segments), strict=True):
    best = None
    if truth:
      same = [t for t in truth if t.label == segment.label]
      best = max((tiou(segment, t) for t in same), default=0.0)
    left, right = (
      100 * min(max(value / video.duration_sec, 0.0), 1.0)
      for value in (segment.start_sec, segment.end_sec)
    )
    bars.append(
      Bar(
        left_percent=round(left, 3),
        width_percent=round(max(right - left, 0.3), 3),
        lane=lane,
        label=segment.label,
        score="" if segment.score is None else f"{segment.score:.2f}",
        title=_title(segment, best),
        hue=hues.get(segment.label),
        alpha=_alpha(segment.score, top),
        hit=best is not None and best >= HIT_TIOU,
        segment=segment,
        tiou=best,
      )
    )
  return tuple(bars)


def _alpha(score: float | None, top: float) -> float:
  """Returns the opacity: 1 for truth and the best score, less below."""
  if score is None or top <= 0:
    return 1.0
  return round(0.15 + 0.85 * max(score, 0.0) / top, 3)


def _title(segment: content.Segment, best: float | None) -> str:
  parts = [segment.label] if segment.label else []
  parts.append(f"{segment.start_sec:.1f}–{segment.end_sec:.1f} s")
  if segment.score is not None:
    parts.append(f"score {segment.score:.3f}")
  if best is not None:
    parts.append(f"tIoU {best:.2f}")
  return " · ".join(parts)


def _frames(video: content.VideoTimeline, *, height: int) -> tuple[Frame, ...]:
  if video.frames is None or not len(video.frames):
    return ()
  count, frame_height, frame_width, _ = video.frames.shape
  at_most = max(4, round(_STRIP_ASPECT * frame_height / frame_width))
  times = content.frame_times(video.duration_sec, count)
  return tuple(
    Frame(images.data_uri(video.frames[index], height=height), times[index])
    for index in images.evenly(count, at_most=at_most)
  )


def _ticks(duration_sec: float) -> tuple[tuple[float, str], ...]:
  values = curves.linear_ticks(0.0, duration_sec, about=8)
  return tuple(
    (round(100 * value / duration_sec, 3), f"{value:g}") for value in values
  )
