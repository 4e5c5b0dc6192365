import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from clap_jax.losses.localization import PointLossConfig, localization_loss
from clap_jax.models.heads import HeadConfig
from clap_jax.models.localizer import (
  DecodeConfig,
  Localizer,
  LocalizerConfig,
  decode,
)
from clap_jax.models.pyramid import PyramidConfig
from clap_jax.ops import segments as segment_ops
from clap_jax.ops.points import PointPredictions, pyramid_points
from clap_jax.types import LocalizationBatch

NUM_CLASSES, NUM_STEPS, WIDTH = 4, 40, 32


def small_localizer(block="attention"):
  pyramid = PyramidConfig(
    width=WIDTH,
    num_levels=3,
    num_heads=2,
    block=block,
    num_stem_convs=1,
    num_stem_blocks=0,
    window_steps=7,
    dropout_rate=0.0,
  )
  return Localizer(
    LocalizerConfig(NUM_CLASSES, pyramid, HeadConfig(num_convs=1))
  )


def synthetic_batch(seed=0, num_videos=8):
  """Two actions a video; class c shows direction c of the feature space."""
  rng = np.random.default_rng(seed)
  directions = rng.normal(size=(NUM_CLASSES, 12))
  features = 0.3 * rng.normal(size=(num_videos, NUM_STEPS, 12))
  lengths = rng.integers(30, NUM_STEPS + 1, num_videos)
  segments = np.zeros((num_videos, 3, 2))
  labels = rng.integers(0, NUM_CLASSES, (num_videos, 3))
  for i in range(num_videos):
    short, long = rng.uniform(2, 6), rng.uniform(7, 14)
    start = rng.uniform(0, 4)
    second = start + short + rng.uniform(2, 5)
    segments[i, :2] = [start, start + short], [second, second + long]
    for (a, b), label in zip(segments[i, :2], labels[i, :2], strict=True):
      steps = np.arange(NUM_STEPS)
      # The share of each step's unit interval that the action covers.
      cover = np.minimum(steps + 0.5, b) - np.maximum(steps - 0.5, a)
      features[i] += np.clip(cover, 0, 1)[:, None] * directions[label]
  return LocalizationBatch(
    features=features.astype(np.float32),
    mask=np.arange(NUM_STEPS) < lengths[:, None],
    segments=segments.astype(np.float32),
    labels=labels.astype(np.int32),
    segment_mask=np.tile([True, True, False], (num_videos, 1)),
    video_index=np.arange(num_videos, dtype=np.int32),
  )


def train(model, batch, *, num_steps, loss_config):
  params = jax.jit(model.init)(jax.random.key(0), batch.features, batch.mask)
  optimizer = optax.adam(3e-3)

  @jax.jit
  def run(params):
    def loss(params):
      predictions = jax.jit(model.apply)(params, batch.features, batch.mask)
      parts = localization_loss(predictions, batch, config=loss_config)
      return sum(s / jnp.maximum(n, 1) for s, n in parts.values())

    def step(carry, _):
      params, state = carry
      value, grad = jax.value_and_grad(loss)(params)
      updates, state = optimizer.update(grad, state, params)
      return (optax.apply_updates(params, updates), state), value

    carry = (params, optimizer.init(params))
    (params, _), losses = jax.lax.scan(step, carry, length=num_steps)
    return params, losses

  return run(params)


@pytest.mark.parametrize("block", ["attention", "conv"])
def test_overfitting_decodes_the_ground_truth(block):
  model, batch = small_localizer(block), synthetic_batch()
  params, losses = train(
    model, batch, num_steps=160, loss_config=PointLossConfig()
  )
  assert losses[-1] < 0.1 * losses[0]
  predictions = jax.jit(model.apply)(params, batch.features, batch.mask)
  config = DecodeConfig(num_kept=20)
  found = jax.jit(lambda x: decode(x, config=config))(predictions)
  for i in range(len(batch.labels)):
    iou = segment_ops.pairwise(
      segment_ops.iou, batch.segments[i, :2], other=found.segments[i, :2]
    )
    match = np.argmax(iou, axis=1)
    assert sorted(match) == [0, 1], i
    assert np.all(np.max(iou, axis=1) > 0.85), (i, iou)
    np.testing.assert_array_equal(found.labels[i][match], batch.labels[i, :2])
    assert found.scores[i, 1] > 0.5 > found.scores[i, 2], found.scores[i]


def test_padding_changes_no_detection():
  model, batch = small_localizer(), synthetic_batch()
  params = jax.jit(model.init)(jax.random.key(0), batch.features, batch.mask)
  config = DecodeConfig(num_kept=10)
  detect = jax.jit(lambda *x: decode(model.apply(*x), config=config))
  got = detect(params, batch.features, batch.mask)
  garbage = np.full((8, 9, 12), np.nan, np.float32)
  longer = detect(
    params,
    np.concatenate([batch.features, garbage], axis=1),
    np.pad(batch.mask, ((0, 0), (0, 9))),
  )
  assert np.any(got.mask)
  np.testing.assert_allclose(longer.scores, got.scores, atol=1e-5)
  np.testing.assert_allclose(longer.segments, got.segments, atol=1e-3)
  np.testing.assert_array_equal(longer.labels, got.labels)


def test_first_step_starts_at_the_prior_and_offsets_are_positive():
  model, batch = small_localizer(), synthetic_batch()
  params = jax.jit(model.init)(jax.random.key(0), batch.features, batch.mask)
  predictions = jax.jit(model.apply)(params, batch.features, batch.mask)
  probability = jax.nn.sigmoid(predictions.class_logits)
  probability = probability[predictions.point_mask]
  assert np.min(probability) > 0.005
  assert np.max(probability) < 0.02
  assert np.all(predictions.offsets >= 0)
  assert predictions.offsets.shape == (8, 40 + 20 + 10, 2)


def test_decode_keeps_what_one_would_by_hand():
  points = pyramid_points(8, num_levels=1, range_factor=4.0)
  logits = np.full((1, 8, 2), -20.0, np.float32)
  logits[0, 2, 0] = 3.0  # [1, 4)
  logits[0, 3, 0] = 2.0  # the same segment: decays
  logits[0, 3, 1] = 1.0  # another class: does not
  logits[0, 6, 1] = 4.0  # masked out
  offsets = np.ones((1, 8, 2), np.float32)
  offsets[0, 2] = 1, 2
  offsets[0, 3] = 2, 1
  predictions = PointPredictions(
    class_logits=logits,
    offsets=offsets,
    points=points,
    point_mask=np.arange(8)[None] < 6,
  )
  config = DecodeConfig(num_kept=5, min_score=0.01, vote_iou=0.9)
  found = jax.jit(lambda x: decode(x, config=config))(predictions)
  probability = 1 / (1 + np.exp(-np.array([3.0, 1.0, 2.0])))
  probability[2] *= np.exp(-1 / 0.5)
  np.testing.assert_allclose(found.scores[0, :3], probability, rtol=1e-5)
  np.testing.assert_allclose(found.segments[0, :3], [[1, 4]] * 3, atol=1e-5)
  np.testing.assert_array_equal(found.labels[0], [0, 1, 0, 0, 0])
  np.testing.assert_array_equal(found.mask[0], [True] * 3 + [False] * 2)
