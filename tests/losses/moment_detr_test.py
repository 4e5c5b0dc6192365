"""Matching, pairs of highlights and the whole criterion of detr."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from clap_jax.losses import moment_detr as losses
from clap_jax.losses.query_targets import QueryTargets
from clap_jax.ops import spans as span_ops

NUM_MOMENTS, NUM_STEPS = 6, 12


def example(num_queries=4, num_windows=3, layers=2):
  """The second query has two windows, the third is absent."""
  rng = np.random.default_rng(0)
  shape = (layers, num_queries, NUM_MOMENTS, 2)
  predictions = span_ops.SpanPredictions(
    logits=jnp.asarray(rng.normal(size=shape), jnp.float32),
    spans=jnp.asarray(rng.uniform(0.1, 0.6, shape), jnp.float32),
    saliency=jnp.asarray(rng.normal(size=(num_queries, NUM_STEPS)), "f4"),
    num_steps=jnp.full(num_queries, 10.0),
  )
  start = rng.uniform(0, 6, (num_queries, num_windows, 1))
  segment_mask = np.ones((num_queries, num_windows), bool)
  segment_mask[1, 2] = False
  segment_mask[2] = False
  targets = QueryTargets(
    segments=np.concatenate([start, start + 2.5], -1).astype(np.float32),
    segment_mask=segment_mask,
    saliency=rng.random((num_queries, NUM_STEPS)).astype(np.float32),
    snippet_mask=np.tile(np.arange(NUM_STEPS) < 10, (num_queries, 1)),
    is_absent=np.arange(num_queries) == 2,
    valid=np.ones(num_queries, bool),
  )
  return predictions, targets


def costs(logits, spans, windows, config):
  """The public program's cost matrix (m, n), by loops."""
  found = np.zeros((len(spans), len(windows)))
  probability = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
  for m, (center, width) in enumerate(spans):
    for n, (other, length) in enumerate(windows):
      a = center - width / 2, center + width / 2
      b = other - length / 2, other + length / 2
      common = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
      union = width + length - common
      hull = max(a[1], b[1]) - min(a[0], b[0])
      overlap = common / union - (hull - union) / hull
      distance = abs(center - other) + abs(width - length)
      found[m, n] = (
        config.span_cost * distance
        - config.iou_cost * overlap
        - config.label_cost * probability[m, 0]
      )
  return found


def test_the_matching_is_that_of_scipy():
  rng = np.random.default_rng(1)
  config = losses.DetrLossConfig(span_cost=2.0)
  match = jax.jit(losses.match, static_argnames="config")
  logits = rng.normal(size=(40, NUM_MOMENTS, 2)).astype(np.float32)
  spans = rng.uniform(0.1, 0.9, (40, NUM_MOMENTS, 2)).astype(np.float32)
  windows = rng.uniform(0.1, 0.9, (40, 4, 2)).astype(np.float32)
  mask = np.arange(4) < rng.integers(0, 5, (40, 1))
  mask = rng.permuted(mask, axis=1)  # windows that count stand anywhere
  found = np.asarray(match(logits, spans, windows, mask=mask, config=config))
  for row, own in enumerate(mask):
    cost = costs(logits[row], spans[row], windows[row][own], config)
    moments, order = scipy.optimize.linear_sum_assignment(cost)
    expected = moments[np.argsort(order)]
    np.testing.assert_array_equal(found[row][own], expected)
    assert len(set(found[row])) == 4  # no moment twice


def test_more_windows_than_moments():
  with pytest.raises(ValueError, match="max_windows"):
    losses.match(
      jnp.zeros((1, 2, 2)),
      jnp.full((1, 2, 2), 0.5),
      jnp.full((1, 3, 2), 0.5),
      mask=jnp.ones((1, 3), bool),
      config=losses.DetrLossConfig(),
    )


def loss_of(predictions, targets, *, asked, **changes):
  config = losses.DetrLossConfig(**changes)
  sums = losses.detr_loss(
    predictions, targets, config=config, asked=asked, rng=jax.random.key(0)
  )
  return {k: total / jnp.maximum(n, 1.0) for k, (total, n) in sums.items()}


def test_names_and_finite_gradients():
  predictions, targets = example()

  def total(predictions, asked):
    found = loss_of(predictions, targets, asked=asked)
    return sum(found.values()), found

  gradient = jax.jit(jax.grad(total, has_aux=True, allow_int=True))
  gradients, found = gradient(predictions, jnp.asarray(targets.valid))
  names = {"label", "span", "iou"}
  assert found.keys() == names | {f"{n}_0" for n in names} | {"saliency"}
  for leaf in gradients[:3]:
    assert np.isfinite(leaf).all() and (np.asarray(leaf) != 0).any()
  # An absent query has labels, but neither moments nor highlights.
  assert (np.asarray(gradients.spans[:, 2]) == 0).all()
  assert (np.asarray(gradients.saliency[2]) == 0).all()
  assert (np.asarray(gradients.logits[:, 2]) != 0).all()
  nothing, found = gradient(predictions, jnp.zeros(4, bool))
  assert all(value == 0 for value in found.values())
  assert all((np.asarray(leaf) == 0).all() for leaf in nothing[:3])


def test_only_the_last_layer():
  predictions, targets = example()
  found = jax.eval_shape(
    lambda: loss_of(
      predictions, targets, asked=jnp.ones(4, bool), every_layer=False
    )
  )
  assert found.keys() == {"label", "span", "iou", "saliency"}


def test_at_most_so_many_windows():
  """Those that are kept are different ones of the query."""
  _, targets = example()
  mask = targets.segment_mask
  for seed in range(3):
    windows, kept = losses._drawn_windows(
      jax.random.key(seed), jnp.asarray(targets.segments), mask, count=2
    )
    assert windows.shape == (4, 2, 2)
    np.testing.assert_array_equal(kept.sum(axis=1), [2, 2, 0, 2])
    for row in range(4):
      own = {tuple(w) for w in np.asarray(windows[row])[np.asarray(kept[row])]}
      assert own <= {tuple(w) for w in targets.segments[row][mask[row]]}
      assert len(own) == kept[row].sum()


def pairs_of(targets, seed, *, annotated):
  pairs = losses.draw_pairs(jax.random.key(seed), targets, annotated=annotated)
  return tuple(np.asarray(leaf) for leaf in jax.tree.leaves(pairs))


def test_pairs_by_annotated_scores():
  """Best and worst within; a drawn one within and without."""
  targets = QueryTargets(
    segments=np.array([[[1.5, 4.5]], [[-0.5, 4.5]]], np.float32),
    segment_mask=np.ones((2, 1), bool),
    # Of equal scores the last is the best, the first the worst.
    saliency=np.array(
      [[9, 9, 0.2, 0.7, 0.7, 9], [0.5, 0.5, 0.1, 0.1, 0.3, 9]], np.float32
    ),
    snippet_mask=np.array([[True] * 6, [True] * 5 + [False]]),
    is_absent=np.zeros(2, bool),
    valid=np.ones(2, bool),
  )
  drawn = set()
  for seed in range(12):
    positives, negatives, has_pairs = pairs_of(targets, seed, annotated=True)
    assert has_pairs.all()
    assert (positives[0, 0], negatives[0, 0]) == (4, 2)
    assert positives[0, 1] in (2, 3, 4) and negatives[0, 1] in (0, 1, 5)
    drawn.add((positives[0, 1], negatives[0, 1]))
    # No step is outside of the second query's window: its first pair twice.
    np.testing.assert_array_equal(positives[1], [1, 1])
    np.testing.assert_array_equal(negatives[1], [2, 2])
  assert len(drawn) > 3


def test_pairs_of_windows_alone():
  targets = QueryTargets(
    segments=np.array([[[1.5, 4.5]], [[0.5, 1.5]], [[0.6, 0.9]]], np.float32),
    segment_mask=np.ones((3, 1), bool),
    saliency=np.zeros((3, 6), np.float32),
    snippet_mask=np.ones((3, 6), bool),
    is_absent=np.zeros(3, bool),
    valid=np.ones(3, bool),
  )
  for seed in range(5):
    positives, negatives, has_pairs = pairs_of(targets, seed, annotated=False)
    assert set(positives[0]) <= {2, 3, 4} and len(set(positives[0])) == 2
    assert set(negatives[0]) <= {0, 1, 5} and len(set(negatives[0])) == 2
    np.testing.assert_array_equal(positives[1], [1, 1])  # there is no other
    # The last window lies between two steps.
    np.testing.assert_array_equal(has_pairs, [True, True, False])


def test_spans_and_grid():
  spans = jnp.array([[[0.25, 0.5], [0.9, 0.2]]])
  num_steps = jnp.array([10.0])
  grid = span_ops.to_grid(spans, num_steps)
  np.testing.assert_allclose(grid, [[[-0.5, 4.5], [7.5, 9.5]]], atol=1e-5)
  np.testing.assert_allclose(
    span_ops.from_grid(grid, num_steps), spans, atol=1e-6
  )


@pytest.mark.parametrize("changes", [{"span_cost": -1.0}, {"max_windows": 0}])
def test_values_out_of_range(changes):
  with pytest.raises(ValueError, match=next(iter(changes))):
    losses.DetrLossConfig(**changes)
