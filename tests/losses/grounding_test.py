import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clap_jax.losses import grounding
from clap_jax.losses.grounding import GroundingLossConfig
from clap_jax.losses.localization import localization_loss
from clap_jax.ops import points as point_ops
from clap_jax.types import GroundingBatch, LocalizationBatch


def example(num_queries=4, num_steps=16):
  rng = np.random.default_rng(0)
  points = point_ops.pyramid_points(num_steps, num_levels=2, range_factor=4.0)
  p = len(points.position)
  start = rng.uniform(0, 8, (num_queries, 1))
  predictions = point_ops.PointPredictions(
    class_logits=jnp.asarray(rng.normal(size=(num_queries, p, 1))),
    offsets=jnp.asarray(rng.uniform(0, 6, (num_queries, p, 2))),
    points=points,
    point_mask=jnp.asarray(rng.random((num_queries, p)) < 0.9),
  )
  batch = GroundingBatch(
    features=np.zeros((num_queries, num_steps, 1), np.float32),
    mask=np.ones((num_queries, num_steps), bool),
    query=np.zeros((num_queries, 1, 1), np.float32),
    query_mask=np.ones((num_queries, 1), bool),
    segment=np.concatenate([start, start + 5], -1).astype(np.float32),
    valid=np.array([True, True, False, True]),
    query_index=np.arange(num_queries),
  )
  return predictions, batch


def test_it_is_the_localization_loss_with_one_class():
  predictions, batch = example()
  config = GroundingLossConfig()
  got = grounding.grounding_loss(predictions, batch, config=config)
  same = LocalizationBatch(
    features=batch.features,
    mask=batch.mask,
    segments=batch.segment[:, None],
    labels=np.zeros((4, 1), np.int32),
    segment_mask=np.ones((4, 1), bool),
    video_index=np.where(batch.valid, 0, -1),
  )
  expected = localization_loss(predictions, same, config=config.points)
  assert set(got) == set(expected)
  for name, (value, count) in expected.items():
    np.testing.assert_allclose(got[name], (value, count), rtol=1e-6)


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
  predictions, batch = example()
  config = GroundingLossConfig(listwise_weight=0.5)

  @jax.jit
  def loss(logits, offsets):
    changed = predictions._replace(class_logits=logits, offsets=offsets)
    parts = grounding.grounding_loss(changed, batch, config=config)
    assert set(parts) == {"class", "offset", "listwise"}
    return sum(s / jnp.maximum(n, 1) for s, n in parts.values())

  ignored = ~predictions.point_mask | ~batch.valid[:, None]
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
