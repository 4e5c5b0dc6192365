import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clap_jax.losses import localization
from clap_jax.losses.localization import PointLossConfig
from clap_jax.ops import points as point_ops
from clap_jax.types import LocalizationBatch

NUM_CLASSES = 3


def example(seed=0, num_videos=4, num_steps=20):
  rng = np.random.default_rng(seed)
  points = point_ops.pyramid_points(num_steps, num_levels=3, range_factor=4.0)
  p = len(points.position)
  start = rng.uniform(0, 15, (num_videos, 3, 1))
  length = rng.uniform(1, 12, (num_videos, 3, 1))
  predictions = point_ops.PointPredictions(
    class_logits=jnp.asarray(rng.normal(size=(num_videos, p, NUM_CLASSES))),
    offsets=jnp.asarray(rng.uniform(0, 8, (num_videos, p, 2))),
    points=points,
    point_mask=jnp.asarray(rng.random((num_videos, p)) < 0.8),
  )
  batch = LocalizationBatch(
    features=np.zeros((num_videos, num_steps, 1), np.float32),
    mask=np.ones((num_videos, num_steps), bool),
    segments=np.concatenate([start, start + length], -1).astype(np.float32),
    labels=rng.integers(0, NUM_CLASSES, (num_videos, 3)),
    segment_mask=rng.random((num_videos, 3)) < 0.8,
    video_index=np.arange(num_videos),
  )
  return predictions, batch


def total(parts):
  return sum(s / jnp.maximum(n, 1) for s, n in parts.values())


@pytest.mark.parametrize("alpha", [0.25, 0.8, -1.0])
@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_focal_loss_equals_its_definition(alpha, gamma):
  logits = np.linspace(-6, 6, 13)
  for target in (0.0, 1.0):
    got = localization.sigmoid_focal_loss(
      jnp.asarray(logits),
      jnp.full(13, target),
      alpha=alpha,
      gamma=gamma,
    )
    p = 1 / (1 + np.exp(-logits))
    p_true = p if target else 1 - p
    weight = 1.0 if alpha < 0 else (alpha if target else 1 - alpha)
    expected = -weight * (1 - p_true) ** gamma * np.log(p_true)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("shape", [(16, 700, 20), (16, 63, 2), (16, 4095)])
def test_a_sum_hardly_depends_on_how_the_batch_is_split(shape):
  """Nearly equal values, as at the start of training, are the worst case."""
  values = np.random.default_rng(0).normal(-4.595, 1e-3, shape)
  values = values.astype(np.float32)

  @jax.jit
  def add(logits):
    loss = localization.sigmoid_focal_loss(
      logits, jnp.zeros_like(logits), alpha=0.25, gamma=2.0
    )
    return localization.sum_in_chunks(loss), loss

  exact = np.asarray(add(values)[1]).sum(dtype=np.float64)
  for num_devices in (1, 2, 8, 16):
    parts = [add(part)[0] for part in np.split(values, num_devices)]
    np.testing.assert_allclose(sum(parts), exact, rtol=3e-7)
  gradient = jax.grad(localization.sum_in_chunks)(jnp.asarray(values))
  np.testing.assert_array_equal(gradient, 1.0)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_loss_and_gradient_are_finite_at_extremes(gamma):
  logits = jnp.array([-1e30, -100.0, 0.0, 100.0, 1e30])
  for target in (0.0, 0.3, 1.0):

    def loss(x, target=target):
      targets = jnp.full(5, target)
      return jnp.sum(
        localization.sigmoid_focal_loss(x, targets, alpha=0.25, gamma=gamma)
      )

    assert np.isfinite(loss(logits))
    assert np.all(np.isfinite(jax.grad(loss)(logits)))


@pytest.mark.parametrize("similarity", sorted(localization.SIMILARITIES))
def test_offset_loss_is_zero_only_at_the_target(similarity):
  target = jnp.array([[2.0, 5.0]])

  def loss(x):
    return jnp.sum(localization.offset_loss(x, target, similarity=similarity))

  assert float(loss(target)) == pytest.approx(0, abs=1e-6)
  assert float(loss(target + 1)) > 0.1
  for x in ([[0.0, 0.0]], [[1e-20, 0.0]], [[1e8, 1e8]]):
    assert np.all(np.isfinite(jax.grad(loss)(jnp.array(x))))


def test_label_smoothing_leaves_room_for_the_background():
  got = localization.smooth_labels(jnp.eye(3), smoothing=0.1)
  np.testing.assert_allclose(got, 0.9 * np.eye(3) + 0.1 / 4, rtol=1e-6)


def test_sums_of_parts_add_up_to_the_whole_batch():
  predictions, batch = example()
  config = PointLossConfig(label_smoothing=0.1, offset_weight=0.5)
  loss = jax.jit(lambda *x: localization.localization_loss(*x, config=config))
  whole = loss(predictions, batch)
  halves = []
  for rows in (slice(0, 2), slice(2, 4)):
    part = predictions._replace(
      class_logits=predictions.class_logits[rows],
      offsets=predictions.offsets[rows],
      point_mask=predictions.point_mask[rows],
    )
    halves.append(loss(part, jax.tree.map(lambda x, r=rows: x[r], batch)))
  for name, (value, count) in whole.items():
    assert count > 0
    np.testing.assert_allclose(
      value, sum(h[name][0] for h in halves), rtol=1e-5
    )
    assert count == sum(h[name][1] for h in halves)


def test_masked_points_and_padding_videos_change_nothing():
  predictions, batch = example()
  batch = batch._replace(video_index=np.array([0, 1, 2, -1]))
  config = PointLossConfig()
  ignored = ~predictions.point_mask | (batch.video_index < 0)[:, None]

  @jax.jit
  def loss(logits, offsets):
    changed = predictions._replace(class_logits=logits, offsets=offsets)
    return total(localization.localization_loss(changed, batch, config=config))

  args = (predictions.class_logits, predictions.offsets)
  dirty = [jnp.where(ignored[..., None], 1e9, x) for x in args]
  np.testing.assert_allclose(loss(*dirty), loss(*args), rtol=1e-6)
  for grad in jax.jit(jax.grad(loss, (0, 1)))(*dirty):
    assert np.all(np.isfinite(grad))
    assert not np.any(grad[ignored])


def test_background_only_batch_still_teaches_background():
  predictions, batch = example()
  batch = batch._replace(segment_mask=np.zeros_like(batch.segment_mask))

  def loss(logits):
    changed = predictions._replace(class_logits=logits)
    parts = localization.localization_loss(
      changed, batch, config=PointLossConfig()
    )
    assert set(parts) == {"class", "offset"}
    return total(parts)

  grad = jax.jit(jax.grad(loss))(predictions.class_logits)
  assert np.all(np.isfinite(grad))
  assert np.all(grad[predictions.point_mask] > 0)


def test_unknown_similarity_lists_the_choices():
  with pytest.raises(ValueError, match="diou"):
    PointLossConfig(offset_similarity="ciou")
