"""The sub-graph localizer's loss against NumPy, and its edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clap_jax.losses import proposals as losses
from clap_jax.ops import proposals as proposal_ops
from clap_jax.types import LocalizationBatch

NUM_STEPS, NUM_CLASSES = 8, 3
PROPOSALS = proposal_ops.all_proposals(NUM_STEPS, max_duration=5)


def make(seed=0, lengths=(8, 6)):
  rng = np.random.default_rng(seed)
  size = len(lengths)

  def logits(*shape):
    return jnp.asarray(rng.normal(size=(size, *shape)), jnp.float32)

  mask = np.arange(NUM_STEPS) < np.array(lengths)[:, None]
  predictions = proposal_ops.ProposalPredictions(
    start_logits=logits(NUM_STEPS),
    end_logits=logits(NUM_STEPS),
    class_logits=logits(NUM_STEPS, NUM_CLASSES),
    regression_logits=logits(len(PROPOSALS.start)),
    classification_logits=logits(len(PROPOSALS.start)),
    proposals=PROPOSALS,
    proposal_mask=jnp.asarray(
      mask[:, PROPOSALS.start + PROPOSALS.duration - 1]
    ),
    mask=jnp.asarray(mask),
  )
  batch = LocalizationBatch(
    features=np.zeros((size, NUM_STEPS, 1)),
    mask=mask,
    segments=np.tile(np.float32([[(-0.5, 2.5), (2.5, 5.5)]]), (size, 1, 1)),
    labels=np.tile(np.int32([[0, 2]]), (size, 1)),
    segment_mask=np.ones((size, 2), bool),
    video_index=np.arange(size),
  )
  return predictions, batch


def terms(predictions, batch, **config):
  return losses.proposal_loss(
    predictions,
    batch,
    config=losses.ProposalLossConfig(**config),
    rng=jax.random.key(0),
  )


def test_balanced_cross_entropy_equals_the_published_weights():
  rng = np.random.default_rng(0)
  logits, positive = rng.normal(size=40), rng.uniform(size=40) < 0.2
  mask = rng.uniform(size=40) < 0.8
  p, y = 1 / (1 + np.exp(-logits[mask])), positive[mask]
  ratio = len(y) / y.sum()
  weights = np.where(y, 0.5 * ratio, 0.5 * ratio / (ratio - 1))
  entropy = -np.where(y, np.log(p), np.log(1 - p))
  found = losses.balanced_cross_entropy(
    jnp.asarray(logits), jnp.asarray(positive), jnp.asarray(mask)
  )
  np.testing.assert_allclose(found, np.mean(weights * entropy), rtol=1e-5)


def test_the_overlap_draw_is_balanced():
  rng = np.random.default_rng(1)
  overlap = rng.uniform(size=(4, 5000))
  overlap[:, :500] = 0.0  # beside every action: never drawn
  high, error = overlap > 0.7, 0.25
  logits = jnp.zeros_like(jnp.asarray(overlap))
  # An error of 0.25 everywhere makes the loss blind to who was drawn.
  even = losses.overlap_loss(
    logits,
    jnp.where(overlap > 0, 1.0, 0.0),
    jnp.ones(overlap.shape, bool),
    rng=jax.random.key(0),
  )
  np.testing.assert_allclose(even, 0.5 * error, rtol=1e-6)
  found = losses.overlap_loss(
    logits,
    jnp.asarray(overlap),
    jnp.ones(overlap.shape, bool),
    rng=jax.random.key(0),
  )
  squared = (0.5 - overlap) ** 2
  groups = (high, (overlap > 0.3) & ~high, (overlap > 0) & (overlap <= 0.3))
  expected = 0.5 * np.mean([squared[group].mean() for group in groups])
  np.testing.assert_allclose(found, expected, rtol=0.02)


@pytest.mark.parametrize(
  ("span_steps", "reach", "weights"),
  [(2.0, 1.5, (10.0, 1.0)), (1.0, 0.5, (1.0, 10.0))],
)
def test_the_loss_equals_the_published_formulas(span_steps, reach, weights):
  """Of logits and two actions, in shares of a sequence as in public code."""
  predictions, batch = make(lengths=(8, 8))
  predictions = predictions._replace(class_logits=None)
  found = terms(
    predictions,
    batch,
    overlap_weight=weights[0],
    quality_weight=weights[1],
    boundary_span_steps=span_steps,
  )
  assert set(found) == {"boundary", "overlap", "quality"}
  actions = (batch.segments[0] + 0.5) / NUM_STEPS
  steps = np.arange(NUM_STEPS)
  spans = np.stack([steps - 0.5, steps + reach], -1) / NUM_STEPS
  sigmoid = lambda x: 1 / (1 + np.exp(-np.asarray(x, np.float64)))  # noqa: E731
  boundary = 0.0
  for side, logits in enumerate(
    (predictions.start_logits, predictions.end_logits)
  ):
    near = actions[:, side, None] + np.array([-1.5, 1.5]) / NUM_STEPS
    shared = np.minimum(spans[:, None, 1], near[:, 1])
    shared = shared - np.maximum(spans[:, None, 0], near[:, 0])
    covered = shared.clip(0) / (spans[:, 1] - spans[:, 0])[:, None]
    label = np.tile(covered.max(-1), 2) > 0.5
    boundary += balanced(sigmoid(logits).ravel(), label)
  assert found["boundary"] == pytest.approx(boundary, rel=1e-4)
  low, high = PROPOSALS.start, PROPOSALS.start + PROPOSALS.duration
  shared = np.minimum(high[:, None] / NUM_STEPS, actions[:, 1])
  shared = shared - np.maximum(low[:, None] / NUM_STEPS, actions[:, 0])
  shared = shared.clip(0)
  lengths = (actions[:, 1] - actions[:, 0])[None]
  union = PROPOSALS.duration[:, None] / NUM_STEPS + lengths - shared
  overlap = np.tile((shared / union).max(-1), 2)
  quality = balanced(
    sigmoid(predictions.classification_logits).ravel(), overlap > 0.9
  )
  assert found["quality"] == pytest.approx(weights[1] * quality, rel=1e-4)


def balanced(probability, positive):
  """The public class-balanced cross entropy, with its epsilon."""
  ratio = len(positive) / positive.sum()
  hit = 0.5 * ratio * np.log(probability + 1e-6) * positive
  miss = 0.5 * ratio / (ratio - 1) * np.log(1 - probability + 1e-6)
  return -np.mean(hit + miss * ~positive)


def test_weights_scale_their_terms_and_padding_adds_nothing():
  predictions, batch = make()
  one = terms(predictions, batch)
  two = terms(predictions, batch, boundary_weight=2.0, overlap_weight=0.0)
  assert two["boundary"] == pytest.approx(2 * one["boundary"])
  assert two["overlap"] == 0.0 and one["overlap"] > 0
  spoiled = jax.tree.map(np.array, predictions)
  for name in ("start_logits", "end_logits", "class_logits"):
    getattr(spoiled, name)[1, 6:] = 50.0
  for name in ("regression_logits", "classification_logits"):
    getattr(spoiled, name)[1, ~np.asarray(predictions.proposal_mask[1])] = 50.0
  again = terms(spoiled._replace(proposals=PROPOSALS), batch)
  # The draw looks at the mask alone, so that the terms are equal.
  for name, value in one.items():
    np.testing.assert_allclose(again[name], value, rtol=1e-5)
  predictions, batch = make(lengths=(8, 6, 8))
  padded = batch._replace(video_index=np.array([0, 1, -1]))
  others = jax.tree.map(np.array, predictions)
  others.class_logits[2] = 9.0
  for name, value in terms(predictions, padded).items():
    found = terms(others._replace(proposals=PROPOSALS), padded)[name]
    np.testing.assert_allclose(found, value, rtol=1e-5)


def test_a_batch_without_any_action_has_finite_gradients():
  predictions, batch = make()
  batch = batch._replace(segment_mask=np.zeros((2, 2), bool))

  def total(logits):
    changed = predictions._replace(
      start_logits=logits[0], regression_logits=logits[1]
    )
    return sum(terms(changed, batch).values())

  value, gradient = jax.value_and_grad(total)(
    (predictions.start_logits, predictions.regression_logits)
  )
  assert np.isfinite(value)
  assert all(np.isfinite(leaf).all() for leaf in gradient)


@pytest.mark.parametrize(
  ("config", "match"),
  [
    ({"class_weight": -1.0}, "weights"),
    ({"quality_iou": 1.0}, "quality_iou"),
    ({"boundary_span_steps": 0.0}, "boundary_span_steps"),
  ],
)
def test_wrong_values(config, match):
  with pytest.raises(ValueError, match=match):
    losses.ProposalLossConfig(**config)
