"""Segments stand where they happen, and are judged as they should."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clap_jax.report import content, timeline

Segment = content.Segment
SEGMENTS = st.lists(
  st.tuples(st.integers(0, 30), st.integers(0, 8)).map(
    lambda pair: Segment(float(pair[0]), float(pair[0] + pair[1]), "a", 0.5)
  ),
  max_size=12,
)


def layout(video):
  return timeline.layout(video, hues={"a": 10, "b": 20}, thumbnail_height=32)


def video(truth=(), predictions=(), **options):
  tracks = (content.Track("clap", predictions),)
  return content.VideoTimeline(
    "v", 10.0, ground_truth=truth, tracks=tracks, **options
  )


@given(SEGMENTS)
@settings(max_examples=60, deadline=None)
def test_segments_of_a_lane_never_overlap(segments):
  lanes = timeline.assign_lanes(segments)
  for i, first in enumerate(segments):
    for j, second in enumerate(segments[:i]):
      if lanes[i] == lanes[j]:
        assert timeline.tiou(first, second) == 0
  assert set(lanes) == set(range(len(set(lanes))))


def test_tiou():
  assert timeline.tiou(Segment(0, 4), Segment(2, 6)) == pytest.approx(1 / 3)
  assert timeline.tiou(Segment(0, 1), Segment(1, 2)) == 0
  assert timeline.tiou(Segment(1, 1), Segment(1, 1)) == 0


def test_bars_are_placed_in_percent_and_clipped_to_the_video():
  placed = layout(video([Segment(2, 5, "a"), Segment(8, 14, "b")]))
  first, second = placed.panels[0].rows[0].bars
  assert (first.left_percent, first.width_percent) == (20, 30)
  assert (second.left_percent, second.width_percent) == (80, 20)
  assert (first.hue, second.hue) == (10, 20)


def test_a_hit_needs_class_and_overlap():
  truth = [Segment(0, 4, "a"), Segment(6, 8, "b")]
  predictions = [
    Segment(0, 3, "a", 0.9),  # tIoU 0.75
    Segment(0, 4, "b", 0.6),  # the wrong class
    Segment(7, 10, "b", 0.3),  # tIoU 0.25
  ]
  _, row = layout(video(truth, predictions)).panels[0].rows
  assert [bar.hit for bar in row.bars] == [True, False, False]
  assert [bar.tiou for bar in row.bars] == pytest.approx([0.75, 0, 0.25])
  assert row.verdict == "1 of 2 actions found"
  alphas = [bar.alpha for bar in row.bars]
  assert alphas[0] == 1 and alphas == sorted(alphas, reverse=True)


def test_only_the_best_predictions_are_drawn_and_judged():
  truth = [Segment(0, 4, "a")]
  predictions = [Segment(5, 6, "b", 0.5)] * 30 + [Segment(0, 4, "a", 0.1)]
  _, row = layout(video(truth, predictions)).panels[0].rows
  assert len(row.bars) == timeline.MAX_ACTIONS
  assert row.num_hidden == 31 - timeline.MAX_ACTIONS
  assert row.verdict == "not found"


def test_without_ground_truth_nothing_is_judged():
  (row,) = layout(video((), [Segment(1, 2, "a", 0.3)])).panels[0].rows
  assert row.kind == "prediction"
  assert row.verdict == ""
  assert row.bars[0].tiou is None and not row.bars[0].hit


def test_an_empty_video_has_an_empty_panel():
  bare = content.VideoTimeline("v", 3.0)
  (panel,) = layout(bare).panels
  assert panel.rows == ()


def test_queries_ignore_labels_and_have_their_own_panel():
  query = content.Query(
    "it spins",
    moments=[Segment(1, 4, "it spins")],
    tracks=[content.Track("clap", [Segment(1, 4, "", 0.8)])],
    absent=False,
  )
  only = content.VideoTimeline("v", 10.0, queries=[query])
  (panel,) = layout(only).panels
  assert panel.query == "it spins"
  truth, found = panel.rows
  assert truth.bars[0].hue is None
  assert found.verdict == "found" and found.bars[0].hit


@pytest.mark.parametrize(
  ("count", "shape", "expected"),
  [(3, (8, 8), 3), (40, (8, 8), 14), (40, (8, 16), 7), (40, (8, 400), 4)],
)
def test_frames_fill_the_strip_without_crowding(count, shape, expected):
  frames = np.zeros((count, *shape, 3), np.uint8)
  placed = layout(dataclasses.replace(video(), frames=frames))
  times = [frame.time_sec for frame in placed.frames]
  assert len(times) == expected
  cell_sec = 10.0 / expected
  for index, time_sec in enumerate(times):
    assert index * cell_sec <= time_sec <= (index + 1) * cell_sec
