import jax
import numpy as np
import pytest

from clap_jax.ops import points as point_ops

NUM_CLASSES = 3


JITTED = jax.jit(
  point_ops.assign_targets, static_argnames=("num_classes", "center_radius")
)


def assign(points, segments, labels, *, radius=1.5, point_mask=None):
  n = len(segments)
  if point_mask is None:
    point_mask = np.ones(points.position.shape, bool)
  return JITTED(
    points,
    point_mask,
    segments=np.float32(segments).reshape(n, 2),
    labels=np.int32(labels),
    segment_mask=np.ones(n, bool),
    num_classes=NUM_CLASSES,
    center_radius=radius,
  )


def reference(points, segments, labels, *, radius):
  """One point and one segment at a time."""
  p = len(points.position)
  classes, offsets = np.zeros((p, NUM_CLASSES)), np.zeros((p, 2))
  for i in range(p):
    found = []
    for (start, end), label in zip(segments, labels, strict=True):
      x, stride = points.position[i], points.stride[i]
      left, right = x - start, end - x
      middle = abs(x - (start + end) / 2) < radius * stride
      reach = points.range_low[i] <= max(left, right) <= points.range_high[i]
      if min(left, right) > 0 and middle and reach:
        found.append((end - start, label, (left, right)))
    if found:
      shortest = min(found, key=lambda x: x[0])
      offsets[i] = shortest[2]
      for length, label, _ in found:
        if length <= shortest[0] + 1e-3:
          classes[i, label] = 1
  return classes, offsets


def test_points_are_centred_on_strided_steps():
  points = point_ops.pyramid_points(5, num_levels=3, range_factor=4.0)
  np.testing.assert_array_equal(points.position, [0, 1, 2, 3, 4, 0, 2, 4, 0, 4])
  np.testing.assert_array_equal(points.level, [0] * 5 + [1] * 3 + [2] * 2)
  np.testing.assert_array_equal(points.stride, [1] * 5 + [2] * 3 + [4] * 2)
  assert point_ops.regression_ranges(3, range_factor=4.0) == (
    (0, 4),
    (4, 8),
    (8, np.inf),
  )


@pytest.mark.parametrize("seed", range(4))
def test_assignment_equals_the_plain_loop(seed):
  rng = np.random.default_rng(seed)
  points = point_ops.pyramid_points(50, num_levels=4, range_factor=4.0)
  start = rng.uniform(-2, 45, (12, 1))
  segments = np.concatenate([start, start + rng.uniform(0, 30, (12, 1))], -1)
  segments = np.float32(segments)
  segments[1] = segments[0]  # equal segments of maybe different classes
  labels = rng.integers(0, NUM_CLASSES, 12)
  radius = (0.5, 1.5, 3.0, np.inf)[seed]
  got = assign(points, segments, labels, radius=radius)
  classes, offsets = reference(points, segments, labels, radius=radius)
  assert classes.sum() > 5
  np.testing.assert_array_equal(got.class_targets, classes)
  np.testing.assert_allclose(got.offsets, offsets, atol=1e-5)
  np.testing.assert_array_equal(got.positive_mask, classes.any(axis=-1))


def test_every_segment_of_a_step_or_more_has_a_point():
  points = point_ops.pyramid_points(64, num_levels=4, range_factor=4.0)
  for start in np.linspace(0, 20, 41):
    for length in (1.1, 2, 5, 9, 17, 30, 43):
      got = assign(points, [[start, start + length]], [0])
      assert np.any(got.positive_mask), (start, length)


def test_masks_empty_lists_and_foreign_labels():
  points = point_ops.pyramid_points(8, num_levels=2, range_factor=4.0)
  assert not np.any(assign(points, np.zeros((0, 2)), []).positive_mask)
  # Zero length, reversed and masked points are nobody's target.
  assert not np.any(assign(points, [[2, 2], [5, 3]], [0, 1]).positive_mask)
  nothing = np.zeros(points.position.shape, bool)
  got = assign(points, [[1, 6]], [0], point_mask=nothing)
  assert not np.any(got.positive_mask)
  assert not np.any(got.class_targets)
  got = assign(points, [[1, 6]], [-1])
  assert np.any(got.positive_mask)
  assert not np.any(got.class_targets)


def test_targets_rebuild_the_segment():
  points = point_ops.pyramid_points(16, num_levels=3, range_factor=4.0)
  got = assign(points, [[2.5, 7.25]], [1])
  predictions = point_ops.PointPredictions(
    class_logits=got.class_targets[None],
    offsets=got.offsets[None],
    points=points,
    point_mask=got.positive_mask[None],
  )
  segments = point_ops.point_segments(predictions)[0][got.positive_mask]
  assert len(segments)
  np.testing.assert_allclose(segments, [[2.5, 7.25]] * len(segments))
