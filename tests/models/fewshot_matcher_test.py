"""Matching with the support: symmetries, masks, adaptation, baselines."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clap_jax.models import episode_baselines, fewshot_matcher, localizer
from clap_jax.models.heads import HeadConfig
from clap_jax.models.pyramid import PyramidConfig
from clap_jax.types import EpisodeBatch

T, D = 16, 8
PYRAMID = PyramidConfig(
  width=8,
  num_levels=2,
  block="conv",
  window_steps=3,
  num_heads=2,
  dropout_rate=0.0,
)


def make_matcher(**config) -> fewshot_matcher.Matcher:
  return fewshot_matcher.Matcher(
    PYRAMID, HeadConfig(num_convs=1), fewshot_matcher.MatcherConfig(**config)
  )


def make_batch(b=2, n=3, k=2, *, seed=0, separation=3.0) -> EpisodeBatch:
  """Way i acts along axis i, in steps 4 to 8 of its supports.

  The query of every row holds way 1 in steps 2 to 6, and nothing else.
  """
  rng = np.random.default_rng(seed)
  support = rng.normal(0, 0.3, (b, n, k, T, D)).astype(np.float32)
  action = np.zeros((b, n, k, T), bool)
  action[..., 4:9] = True
  for way in range(n):
    support[:, way, :, 4:9, way] += separation
  query = rng.normal(0, 0.3, (b, T, D)).astype(np.float32)
  query[:, 2:7, min(1, n - 1)] += separation
  text = rng.uniform(-1, 1, (b, T, n + 1)).astype(np.float32)
  return EpisodeBatch(
    query=query,
    query_mask=np.ones((b, T), bool),
    query_text=text,
    support=support,
    support_mask=np.ones((b, n, k, T), bool),
    support_action=action,
    support_text=rng.uniform(-1, 1, (b, n, k, T, n + 1)).astype(np.float32),
    segments=np.zeros((b, 0, 2), np.float32),
    labels=np.zeros((b, 0), np.int32),
    segment_mask=np.zeros((b, 0), bool),
    episode_index=np.arange(b, dtype=np.int32),
  )


def initial(matcher, batch, seed=0):
  """Parameters with nothing left at zero, the attention's output above all."""
  params = jax.jit(matcher.init)(jax.random.key(seed), batch)
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda x: x + rng.normal(0, 0.05, x.shape).astype(np.float32), params
  )


def permuted(batch: EpisodeBatch, order) -> EpisodeBatch:
  columns = [*order, len(order)]
  return batch._replace(
    support=batch.support[:, order],
    support_mask=batch.support_mask[:, order],
    support_action=batch.support_action[:, order],
    support_text=batch.support_text[:, order][..., columns],
    query_text=batch.query_text[..., columns],
  )


@pytest.mark.parametrize("use_text", [False, True])
def test_ways_have_no_order(use_text):
  batch, order = make_batch(), [2, 0, 1]
  matcher = make_matcher(use_text=use_text)
  params = initial(matcher, batch)
  apply = jax.jit(matcher.apply)
  found = apply(params, batch)
  again = apply(params, permuted(batch, order))
  assert found.class_logits.shape == (2, T + T // 2, 3)
  np.testing.assert_allclose(
    again.class_logits, found.class_logits[..., order], atol=1e-3
  )
  np.testing.assert_allclose(again.offsets, found.offsets, atol=1e-5)


@pytest.mark.parametrize("use_text", [False, True])
def test_masked_steps_and_missing_shots_do_not_matter(use_text):
  batch = make_batch(k=3)
  batch.support_mask[:, 1, 2] = False  # this way has two shots
  batch.support_mask[:, 0, 0, 12:] = False
  batch.query_mask[:, 13:] = False
  matcher = make_matcher(use_text=use_text)
  params = initial(matcher, batch)
  apply = jax.jit(matcher.apply)
  found = apply(params, batch)
  rng = np.random.default_rng(9)

  def scrambled(x, mask):
    noise = rng.normal(0, 50, x.shape).astype(np.float32)
    return np.where(mask[..., None], x, noise)

  again = apply(
    params,
    batch._replace(
      support=scrambled(batch.support, batch.support_mask),
      support_text=scrambled(batch.support_text, batch.support_mask),
      query=scrambled(batch.query, batch.query_mask),
      query_text=scrambled(batch.query_text, batch.query_mask),
      support_action=batch.support_action | ~batch.support_mask,
    ),
  )
  valid = np.asarray(found.point_mask)
  np.testing.assert_allclose(
    again.class_logits[valid], found.class_logits[valid], atol=1e-3
  )


def test_support_and_query_both_count():
  batch = make_batch()
  matcher = make_matcher()
  params = initial(matcher, batch)
  found = matcher.apply(params, batch).class_logits
  for change in (
    batch._replace(support=batch.support[::-1] * 0.5),
    batch._replace(support_action=np.roll(batch.support_action, 5, -1)),
    batch._replace(query=np.roll(batch.query, 4, axis=1)),
  ):
    assert (
      np.abs(matcher.apply(params, change).class_logits - found).max() > 0.01
    )


def balanced_loss(adapted, support, scale=20.0):
  """By loops over ways, from the definition."""
  logits = np.asarray(
    fewshot_matcher.match_logits(
      adapted, support.features, support.text, scale=scale, text_scale=0.0
    ),
    np.float64,
  )
  total = 0.0
  for row, way in np.ndindex(logits.shape[:2]):
    z = logits[row, way]
    total += np.log1p(np.exp(-z[support.positive_mask[row, way]])).mean()
    total += np.log1p(np.exp(z[support.negative_mask[row, way]])).mean()
  return total


def start_for(support) -> fewshot_matcher.Prototypes:
  b, n, _ = support.positive_mask.shape
  weight = jnp.ones((b, n, support.features.shape[-1]))
  return fewshot_matcher.Prototypes(weight, jnp.zeros((b, n)), jnp.ones((b, n)))


def adapted_to(support, num_steps, start=None):
  return fewshot_matcher.adapt(
    start or start_for(support),
    support,
    scale=20.0,
    text_scale=0.0,
    step_size=jnp.array([0.05, 0.5, 0.1]),
    num_steps=num_steps,
  )


def test_adaptation_fits_the_support():
  batch = make_batch()
  support = fewshot_matcher.flatten_support(batch, batch.support)
  losses = [balanced_loss(adapted_to(support, n), support) for n in (0, 1, 40)]
  assert losses[0] > losses[1] > losses[2]
  assert losses[2] < 0.2 * losses[0]


def test_a_way_without_background_or_others_keeps_its_start():
  """One way of trimmed clips: nothing says where its action ends."""
  batch = make_batch(n=1)
  batch.support_action[:] = True
  support = fewshot_matcher.flatten_support(batch, batch.support)
  assert not support.negative_mask.any()
  start = start_for(support)
  for found, expected in zip(adapted_to(support, 5), start, strict=True):
    np.testing.assert_array_equal(found, expected)
  gradient = jax.grad(
    lambda x: adapted_to(support._replace(features=x), 3).weight.sum()
  )(support.features)
  assert np.isfinite(gradient).all()


def test_positives_and_negatives_of_the_support():
  batch = make_batch(b=1, n=2, k=1)
  batch.support_mask[0, 0, 0, :6] = False
  support = fewshot_matcher.flatten_support(batch, batch.support)
  own, other = np.split(np.asarray(support.positive_mask[0, 0]), 2)
  assert np.flatnonzero(own).tolist() == [6, 7, 8] and not other.any()
  own, other = np.split(np.asarray(support.negative_mask[0, 0]), 2)
  assert np.flatnonzero(own).tolist() == list(range(9, 16))
  assert np.flatnonzero(other).tolist() == [4, 5, 6, 7, 8]


def test_gradients_are_finite_and_reach_everything():
  batch = make_batch()
  matcher = make_matcher(use_text=True)
  params = initial(matcher, batch)
  gradients = jax.jit(
    jax.grad(lambda p: jnp.mean(matcher.apply(p, batch).class_logits ** 2))
  )(params)
  for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
    assert np.isfinite(leaf).all(), path
    name = jax.tree_util.keystr(path)
    # Offsets are not in this loss; a key's bias moves all logits alike.
    if not any(part in name for part in ("offset_head", "'scale'", "look_k")):
      assert np.abs(leaf).max() > 0, path


def best_segment(points, row=0):
  config = localizer.DecodeConfig(num_kept=5, num_candidates=200)
  found = localizer.decode(points, config=config)
  return np.asarray(found.segments[row, 0]), int(found.labels[row, 0])


def test_the_nearest_prototype_finds_what_is_planted():
  points = episode_baselines.nearest_prototype(make_batch(), temperature=0.1)
  segment, label = best_segment(points)
  np.testing.assert_allclose(segment, [1.5, 6.5])
  assert label == 1


def test_one_way_of_trimmed_clips_is_enough_for_the_nearest_prototype():
  batch = make_batch(n=1)
  trimmed = batch._replace(
    support=batch.support[..., 4:9, :],
    support_mask=batch.support_mask[..., 4:9],
    support_action=batch.support_action[..., 4:9],
    support_text=batch.support_text[..., 4:9, :],
  )
  points = episode_baselines.nearest_prototype(trimmed, temperature=0.1)
  assert np.isfinite(points.class_logits).all()


def test_text_only_reads_the_text_only():
  batch = make_batch()
  text = np.full((2, T, 4), 0.0, np.float32)
  text[..., 3] = 0.3  # background
  text[:, 9:12, 2] = 0.9
  batch = batch._replace(query_text=text)
  points = episode_baselines.text_only(batch, logit_scale=20.0)
  segment, label = best_segment(points)
  np.testing.assert_allclose(segment, [8.5, 11.5])
  assert label == 2
  other = batch._replace(support=batch.support * 0, query=batch.query * 0)
  again = episode_baselines.text_only(other, logit_scale=20.0)
  np.testing.assert_array_equal(points.class_logits, again.class_logits)


def runs_by_loop(probability, mask):
  """{(start, end, way): mean probability} of one video."""
  found = {}
  for way in range(probability.shape[1]):
    values = probability[:, way]
    low, high = values[mask].min(), values[mask].max()
    for threshold in np.arange(1, 10) / 10:
      above = (values >= low + np.float32(threshold) * (high - low)) & mask
      start = None
      for step in range(len(values) + 1):
        inside = step < len(values) and above[step]
        if inside and start is None:
          start = step
        if not inside and start is not None:
          key = (start - 0.5, step - 0.5, way)
          found[key] = values[start:step].mean()
          start = None
  return found


def test_runs_are_those_of_a_loop():
  rng = np.random.default_rng(4)
  probability = rng.uniform(0.05, 0.9, (2, 12, 2)).astype(np.float32)
  mask = np.ones((2, 12), bool)
  mask[1, 9:] = False
  mask[1, 4] = False
  points = episode_baselines.runs_as_points(probability, mask)
  scores = jax.nn.sigmoid(points.class_logits)
  for row in range(2):
    found = {}
    for index in np.flatnonzero(points.point_mask[row]):
      left, right = points.offsets[row, index]
      start = float(points.points.position[index] - left)
      end = float(points.points.position[index] + right)
      way = int(np.argmax(scores[row, index]))
      found[start, end, way] = float(scores[row, index, way])
    expected = runs_by_loop(probability[row], mask[row])
    assert set(found) == set(expected)
    for key, value in expected.items():
      assert found[key] == pytest.approx(value, abs=1e-4)


@pytest.mark.parametrize("changes", [{"adapt_steps": -1}, {"num_heads": -1}])
def test_bad_options(changes):
  with pytest.raises(ValueError, match="at least 0"):
    fewshot_matcher.MatcherConfig(**changes)
