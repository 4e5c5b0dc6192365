"""Candidates of a grid against loops written here."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from clap_jax.ops import proposals as proposal_ops


def test_proposals_are_all_that_end_within_the_grid():
  proposals = proposal_ops.all_proposals(6, max_duration=4)
  found = list(
    zip(proposals.start.tolist(), proposals.duration.tolist(), strict=True)
  )
  assert found == [
    (start, duration)
    for duration in range(1, 5)
    for start in range(6)
    if start + duration <= 6
  ]
  assert len(proposal_ops.all_proposals(3, max_duration=100).start) == 6
  segments = proposal_ops.proposal_segments(proposals)
  np.testing.assert_array_equal(segments[0], (-0.5, 0.5))
  np.testing.assert_array_equal(segments[-1], (1.5, 5.5))


def test_reading_spans_are_public_anchors():
  proposals = proposal_ops.all_proposals(9, max_duration=7)
  found = proposal_ops.read_spans(proposals, share=0.5)
  expected = [
    (
      start - 0.5 * (index + 1),
      start + index + 0.5 * (index + 1),
    )
    for index in range(7)  # the public code counts durations from zero
    for start in range(9)
    if start + index < 9
  ]
  np.testing.assert_array_equal(found, expected)


def read_by_loop(values, segment, num_bins):
  """RoIAlign in one dimension, sample by sample."""
  start, length = segment[0], max(segment[1] - segment[0], 1.0)
  count, last = math.ceil(length / num_bins), len(values) - 1
  bins = []
  for number in range(num_bins):
    total = 0.0
    for sample in range(count):
      position = start + (number + (sample + 0.5) / count) * length / num_bins
      if -1 <= position <= len(values):
        position = min(max(position, 0), last)
        low = math.floor(position)
        share = position - low
        total += values[low] * (1 - share)
        total += values[min(low + 1, last)] * share
    bins.append(total / count)
  return bins


def test_reading_equals_a_loop():
  rng = np.random.default_rng(0)
  values = rng.normal(size=11)
  start = rng.uniform(-6, 12, 60)
  segments = np.stack([start, start + rng.uniform(0.1, 15, 60)], axis=-1)
  for num_bins in (1, 4, 32):
    weights = proposal_ops.align_weights(
      segments, num_steps=11, num_bins=num_bins
    )
    expected = [read_by_loop(values, s, num_bins) for s in segments]
    np.testing.assert_allclose(weights @ values, expected, atol=1e-4)


def test_targets():
  near = proposal_ops.boundary_targets(
    jnp.array([4.0, 7.25, 1.0]),
    jnp.array([True, True, False]),
    num_steps=10,
    width=3.0,
    span_steps=2.0,
  )
  expected = np.zeros(10)
  for boundary in (4.0, 7.25):
    for step in range(10):
      low = max(step - 1, boundary - 1.5)
      covered = max(min(step + 1, boundary + 1.5) - low, 0) / 2
      expected[step] = max(expected[step], covered)
  np.testing.assert_allclose(near, expected, atol=1e-6)

  segments = jnp.array([(0.5, 3.5), (2.5, 8.5), (0.0, 9.0)])
  mask = jnp.array([True, True, False])
  proposals = proposal_ops.all_proposals(10, max_duration=7)
  overlap = proposal_ops.proposal_overlaps(proposals, segments, mask)
  exact = (proposals.start == 1) & (proposals.duration == 3)
  assert overlap[np.flatnonzero(exact)[0]] == pytest.approx(1.0)
  best = np.zeros(len(proposals.start))
  for index, (low, high) in enumerate(
    proposal_ops.proposal_segments(proposals)
  ):
    for start, end in segments[:2]:
      common = max(min(high, end) - max(low, start), 0)
      union = (high - low) + (end - start) - common
      best[index] = max(best[index], common / union)
  np.testing.assert_allclose(overlap, best, atol=1e-6)

  classes = proposal_ops.step_classes(
    segments, jnp.array([1, 0, 2]), mask, num_steps=10, num_classes=3
  )
  np.testing.assert_array_equal(np.flatnonzero(classes[:, 1]), [1, 2, 3])
  np.testing.assert_array_equal(np.flatnonzero(classes[:, 0]), range(3, 9))
  assert not classes[:, 2].any()


@pytest.mark.parametrize("reach", [1.5, 0.5])  # ActivityNet, THUMOS14
def test_boundary_targets_are_the_public_ratios(reach):
  """In shares of the sequence, as the public data sets compute them."""
  total, gap = 20, 1 / 20
  boundaries = np.random.default_rng(0).uniform(size=4)
  expected = np.zeros(total)
  for i in range(total):
    low, high = gap * (i - 0.5), gap * (i + reach)
    for boundary in boundaries:
      near = boundary - 1.5 * gap, boundary + 1.5 * gap
      shared = max(min(high, near[1]) - max(low, near[0]), 0.0)
      expected[i] = max(expected[i], shared / (high - low))
  found = proposal_ops.boundary_targets(
    jnp.asarray(boundaries * total - 0.5),  # a share's place in grid units
    jnp.ones(4, bool),
    num_steps=total,
    width=3.0,
    span_steps=reach + 0.5,
  )
  np.testing.assert_allclose(found, expected, atol=1e-5)


def test_overlaps_are_the_public_match_map():
  total, longest = 12, 7
  actions = np.array([(0.1, 0.55), (0.62, 0.98)])
  expected = []
  for duration in range(1, longest + 1):
    for start in range(total - duration + 1):
      low, high = start / total, (start + duration) / total
      shared = np.minimum(high, actions[:, 1]) - np.maximum(low, actions[:, 0])
      shared = shared.clip(0)
      union = (high - low) - shared + actions[:, 1] - actions[:, 0]
      expected.append(np.max(shared / union))
  found = proposal_ops.proposal_overlaps(
    proposal_ops.all_proposals(total, max_duration=longest),
    jnp.asarray(actions * total - 0.5),
    jnp.ones(2, bool),
  )
  np.testing.assert_allclose(found, expected, atol=1e-5)


def test_no_segment_gives_empty_targets():
  nothing, mask = jnp.zeros((0, 2)), jnp.zeros(0, bool)
  proposals = proposal_ops.all_proposals(4, max_duration=4)
  assert not proposal_ops.proposal_overlaps(proposals, nothing, mask).any()
  near = proposal_ops.boundary_targets(
    nothing[:, 0], mask, num_steps=4, width=3.0, span_steps=2.0
  )
  np.testing.assert_array_equal(near, np.zeros(4))


def test_means_and_peaks():
  values = np.random.default_rng(1).uniform(size=(8, 2)).astype(np.float32)
  proposals = proposal_ops.all_proposals(8, max_duration=5)
  means = proposal_ops.mean_over_proposals(jnp.asarray(values), proposals)
  expected = [
    values[start : start + duration].mean(axis=0)
    for start, duration in zip(proposals.start, proposals.duration, strict=True)
  ]
  np.testing.assert_allclose(means, expected, rtol=1e-5)
  probability = jnp.array([0.1, 0.3, 0.2, 0.9, 0.6, 0.5, 0.2, 0.99])
  mask = jnp.arange(8) < 7
  peaks = proposal_ops.boundary_peaks(probability, mask)
  np.testing.assert_array_equal(np.flatnonzero(peaks), [1, 3, 4, 5])
