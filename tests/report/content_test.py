"""Content refuses what cannot be drawn."""

import math

import numpy as np
import pytest

from clap_jax.report import content


@pytest.mark.parametrize("ends", [(3.0, 2.0), (math.nan, 1.0), (0.0, math.inf)])
def test_segment_needs_finite_ordered_ends(ends):
  with pytest.raises(ValueError, match="'spins' is from"):
    content.Segment(*ends, "spins")


@pytest.mark.parametrize(
  "frames",
  [np.zeros((2, 4, 4, 3), np.float32), np.zeros((4, 4, 3), np.uint8)],
)
def test_frames_are_uint8_rgb(frames):
  with pytest.raises(ValueError, match="expected uint8"):
    content.VideoTimeline("a", 3.0, frames=frames)


@pytest.mark.parametrize("duration_sec", [0.0, -1.0, math.nan])
def test_duration_is_positive(duration_sec):
  with pytest.raises(ValueError, match="positive duration"):
    content.VideoTimeline("a", duration_sec)


def test_frame_times_stand_in_the_middle_of_equal_cells():
  np.testing.assert_allclose(content.frame_times(8.0, 4), [1, 3, 5, 7])
  assert content.frame_times(8.0, 0).shape == (0,)
