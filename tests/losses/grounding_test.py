import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clap_jax.losses import grounding, query_targets
from clap_jax.losses.grounding import GroundingLossConfig
from clap_jax.losses.localization import localization_loss
from clap_jax.ops import points as point_ops
from clap_jax.types import GroundingBatch, LocalizationBatch


def example(num_queries=4, num_steps=16):
  """Queries as rows; the third is padding, the last has two moments."""
  rng = np.random.default_rng(0)
  points = point_ops.pyramid_points(num_steps, num_levels=2, range_factor=4.0)
  p = len(points.position)
  start = rng.uniform(0, 4, (num_queries, 2, 1)) + np.array([[0.0], [8.0]])
  predictions = point_ops.PointPredictions(
    class_logits=jnp.asarray(rng.normal(size=(num_queries, p, 1))),
    offsets=jnp.asarray(rng.uniform(0, 6, (num_queries, p, 2))),
    points=points,
    point_mask=jnp.asarray(rng.random((num_queries, p)) < 0.9),
  )
  segment_mask = np.zeros((num_queries, 2), bool)
  segment_mask[:, 0] = segment_mask[-1] = True
  targets = query_targets.QueryTargets(
    segments=np.concatenate([start, start + 3], -1).astype(np.float32),
    segment_mask=segment_mask,
    saliency=rng.random((num_queries, num_steps)).astype(np.float32),
    snippet_mask=rng.random((num_queries, num_steps)) < 0.8,
    is_absent=np.zeros(num_queries, bool),
    valid=np.array([True, True, False, True]),
  )
  return predictions, targets


def with_absent(targets):
  """The second query is another video's."""
  is_absent = np.array([False, True, False, False])
  return targets._replace(
    is_absent=is_absent,
    segment_mask=targets.segment_mask & ~is_absent[:, None],
  )


def total(parts):
  return sum(s / jnp.maximum(n, 1) for s, n in parts.values())


def test_it_is_the_localization_loss_with_one_class():
  predictions, targets = example()
  config = GroundingLossConfig()
  got = grounding.point_grounding_loss(predictions, targets, config=config)
  same = LocalizationBatch(
    features=np.zeros((4, 16, 1), np.float32),
    mask=np.ones((4, 16), bool),
    segments=targets.segments,
    labels=np.zeros((4, 2), np.int32),
    segment_mask=targets.segment_mask,
    video_index=np.where(targets.valid, 0, -1),
  )
  expected = localization_loss(predictions, same, config=config.points)
  assert set(got) == set(expected)
  for name, (value, count) in expected.items():
    np.testing.assert_allclose(got[name], (value, count), rtol=1e-6)


def test_absent_queries_are_negatives_where_asked():
  predictions, targets = example()
  absent = with_absent(targets)
  without = absent._replace(valid=absent.valid & ~absent.is_absent)
  plain = GroundingLossConfig()
  off, same = (
    grounding.point_grounding_loss(predictions, t, config=plain)
    for t in (absent, without)
  )
  np.testing.assert_allclose(off["class"], same["class"], rtol=1e-6)
  on = grounding.point_grounding_loss(
    predictions, absent, config=GroundingLossConfig(absent_moments=True)
  )
  assert on["class"][0] > off["class"][0]
  assert on["class"][1] == off["class"][1]  # no more positives


def test_queries_of_all_videos_become_rows():
  shape = (2, 3)
  batch = GroundingBatch(
    features=np.zeros((2, 5, 1), np.float32),
    mask=np.arange(5) < np.array([[3], [5]]),
    query=np.zeros((*shape, 1, 1), np.float32),
    query_mask=np.ones((*shape, 1), bool),
    segments=np.arange(24, dtype=np.float32).reshape(*shape, 2, 2),
    segment_mask=np.ones((*shape, 2), bool),
    saliency=np.zeros((*shape, 5), np.float32),
    is_absent=np.zeros(shape, bool),
    valid=np.ones(shape, bool),
    query_index=np.arange(6).reshape(shape),
  )
  targets = query_targets.query_targets(batch)
  np.testing.assert_array_equal(targets.segments[4], batch.segments[1, 1])
  np.testing.assert_array_equal(
    targets.snippet_mask.sum(axis=1), [3] * 3 + [5] * 3
  )


CANDIDATES = np.float32([[-0.5, 3.5], [1.5, 3.5], [1.5, 7.5], [9.5, 14.5]])


def test_map_targets_are_scaled_iou():
  """By hand: one query, moment [0, 4): IoU .778, .5, .333, 0."""
  _, targets = example(num_queries=1)
  targets = targets._replace(
    segments=np.float32([[[0, 4], [9, 9.5]]]),
    segment_mask=np.array([[True, False]]),
    valid=np.array([True]),
    is_absent=np.array([False]),
  )
  logits = jnp.array([[0.3, -1.0, 2.0, 0.0]])
  mask = jnp.array([[True, True, True, False]])
  config = GroundingLossConfig(map_iou_low=0.4, map_iou_high=0.6)
  parts = grounding.map_grounding_loss(
    logits,
    jnp.zeros((1, 4, 2)),
    targets,
    candidates=CANDIDATES,
    mask=mask,
    config=config,
  )
  expected = 0.0
  for logit, target in ((0.3, 1.0), (-1.0, 0.5), (2.0, 0.0)):
    probability = 1 / (1 + np.exp(-logit))
    expected -= target * np.log(probability)
    expected -= (1 - target) * np.log(1 - probability)
  assert float(parts["map"][0]) == pytest.approx(expected / 3, rel=1e-5)
  assert float(parts["map"][1]) == 1
  # DIoU of the two positive candidates with [0, 4).
  shift = (1 - (3.5 / 4.5 - (0.5 / 4.5) ** 2)) + (1 - (0.5 - (0.5 / 4) ** 2))
  assert float(parts["shift"][0]) == pytest.approx(shift, rel=1e-5)
  assert float(parts["shift"][1]) == 2


def test_map_loss_ignores_what_is_not_valid():
  _, targets = example()
  targets = with_absent(targets)
  rng = np.random.default_rng(2)
  mask = jnp.asarray(rng.random((4, 4)) < 0.8)
  config = GroundingLossConfig(listwise_weight=0.3)

  @jax.jit
  def loss(logits, shifts):
    return total(
      grounding.map_grounding_loss(
        logits,
        shifts,
        targets,
        candidates=jnp.asarray(CANDIDATES),
        mask=mask,
        config=config,
      )
    )

  args = (rng.normal(size=(4, 4)), rng.normal(size=(4, 4, 2)))
  asked = targets.valid & ~targets.is_absent
  ignored = ~(np.asarray(mask) & asked[:, None])
  dirty = [
    np.where(ignored.reshape(4, 4, *[1] * (x.ndim - 2)), 1e9, x) for x in args
  ]
  np.testing.assert_allclose(loss(*dirty), loss(*args), rtol=1e-5)
  for gradient in jax.jit(jax.grad(loss, (0, 1)))(*dirty):
    assert np.isfinite(gradient).all() and np.any(gradient)
    assert not np.any(np.asarray(gradient)[ignored])


def test_saliency_loss_equals_cross_entropy():
  _, targets = example()
  logits = jnp.asarray(np.random.default_rng(3).normal(size=(4, 16)))
  off = GroundingLossConfig()
  assert grounding.saliency_loss(logits, targets, config=off) == {}
  config = GroundingLossConfig(saliency_weight=0.5)
  value, count = grounding.saliency_loss(logits, targets, config=config)[
    "saliency"
  ]
  expected = 0.0
  for row in np.flatnonzero(targets.valid):
    keep = targets.snippet_mask[row]
    p = 1 / (1 + np.exp(-np.asarray(logits)[row, keep]))
    y = targets.saliency[row, keep]
    expected -= np.mean(y * np.log(p) + (1 - y) * np.log(1 - p))
  assert float(value) == pytest.approx(0.5 * expected, rel=1e-4)
  assert float(count) == 3


def test_listwise_loss_equals_the_plain_loop():
  rng = np.random.default_rng(1)
  logits = rng.normal(size=(5, 9))
  point_mask = rng.random((5, 9)) < 0.7
  positive_mask = rng.random((5, 9)) < 0.4
  positive_mask[2] = False
  point_mask[3] = False
  got = grounding.listwise_loss(
    jnp.asarray(logits), jnp.asarray(positive_mask), point_mask=point_mask
  )
  for i in range(5):
    total = np.sum(np.exp(logits[i][point_mask[i]]))
    chosen = logits[i][positive_mask[i] & point_mask[i]]
    expected = -np.mean(chosen - np.log(total)) if len(chosen) else 0.0
    assert float(got[i]) == pytest.approx(expected, abs=1e-5)


def test_invalid_queries_change_nothing():
  predictions, targets = example()
  config = GroundingLossConfig(listwise_weight=0.5)

  @jax.jit
  def loss(logits, offsets):
    changed = predictions._replace(class_logits=logits, offsets=offsets)
    parts = grounding.point_grounding_loss(changed, targets, config=config)
    assert set(parts) == {"class", "offset", "listwise"}
    return total(parts)

  ignored = ~predictions.point_mask | ~targets.valid[:, None]
  args = (predictions.class_logits, predictions.offsets)
  dirty = [jnp.where(ignored[..., None], 1e9, x) for x in args]
  np.testing.assert_allclose(loss(*dirty), loss(*args), rtol=1e-6)
  for grad in jax.jit(jax.grad(loss, (0, 1)))(*dirty):
    assert np.all(np.isfinite(grad))
    assert np.any(grad)
    assert not np.any(grad[ignored])


def test_absence_loss_equals_cross_entropy():
  logits = jnp.array([2.0, -1.0, 5.0, 1e4])
  is_absent = jnp.array([True, False, True, False])
  valid = jnp.array([True, True, False, False])
  config = GroundingLossConfig(absence_weight=0.5)
  value, count = grounding.absence_loss(
    logits, is_absent, valid=valid, config=config
  )["absence"]
  expected = -np.log(1 / (1 + np.exp(-2.0))) - np.log(1 / (1 + np.exp(-1.0)))
  assert float(value) == pytest.approx(0.5 * expected, rel=1e-5)
  assert float(count) == 2
  off = GroundingLossConfig(absence_weight=0.0)
  assert not grounding.absence_loss(logits, is_absent, valid=valid, config=off)


def test_hyper_parameters_are_checked():
  with pytest.raises(ValueError, match="weights must be >= 0"):
    GroundingLossConfig(map_shift_weight=-1.0)
  with pytest.raises(ValueError, match="map_iou_low"):
    GroundingLossConfig(map_iou_low=0.7, map_iou_high=0.7)
