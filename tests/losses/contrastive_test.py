"""Mask rules, and the laws that the masked contrastive loss obeys."""

import functools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from clap_jax.losses import (
  contrastive,
  contrastive_sharded,
  contrastive_states,
)
from tests.losses import contrastive_oracle

BATCH, WIDTH = 12, 6
seeds = st.integers(0, 2**32 - 1)
presets = st.sampled_from(sorted(contrastive.PRESETS))
# Laws of the tiled loss need a compilation per preset: the two most different.
extreme_presets = st.sampled_from(["captions", "unmasked"])
# A few examples of every law at every run; a longer search is a flag away.
quickly = hypothesis.settings(max_examples=15, deadline=None, database=None)


def random_batch(seed, batch=BATCH):
  rng = np.random.default_rng(seed)
  embeddings = contrastive_oracle.random_embeddings(rng, batch, WIDTH)
  pairs = contrastive_oracle.random_pairs(rng, batch, uneven=True)
  return *embeddings, pairs


@functools.cache
def compiled(preset, objective="softmax", implementation="tiled"):
  def loss(video, text, scale, pairs):
    return contrastive_sharded.contrastive_loss(
      video,
      text,
      pairs,
      scale,
      rules=contrastive.PRESETS[preset],
      objective=objective,
      logit_bias=-2.0,
      implementation=implementation,
      tile_size=5,
    )[0]

  return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))


@functools.cache
def compiled_masks(preset):
  rules = contrastive.PRESETS[preset]

  def masks(pairs):
    pairs = contrastive.text_groups(pairs, rules)
    return contrastive.pair_masks(pairs, pairs, rules=rules)

  return jax.jit(masks)


@pytest.mark.parametrize("preset", contrastive.PRESETS)
def test_masks_equal_a_judgement_pair_by_pair(preset):
  for seed in range(5):
    _, _, pairs = random_batch(seed)
    masks = compiled_masks(preset)(pairs)
    for i in range(BATCH):
      for j in range(BATCH):
        kind = contrastive_oracle.pair_kind(
          pairs, contrastive.PRESETS[preset], i, j
        )
        assert masks.positive[i, j] == (kind == "positive")
        assert masks.negative[i, j] == (kind == "negative")


def test_a_tile_of_the_masks_comes_from_two_slices():
  rules = contrastive.PRESETS["captions"]
  _, _, pairs = random_batch(0)
  pairs = jax.tree.map(jnp.asarray, contrastive.text_groups(pairs, rules))
  whole = contrastive.pair_masks(pairs, pairs, rules=rules)
  rows, columns = slice(2, 7), slice(5, 12)
  tile = contrastive.pair_masks(
    jax.tree.map(lambda leaf: leaf[rows], pairs),
    jax.tree.map(lambda leaf: leaf[columns], pairs),
    rules=rules,
  )
  for part, full in zip(tile, whole, strict=True):
    np.testing.assert_array_equal(part, full[rows, columns])


def test_a_background_clip_without_text_pushes_captions_but_never_pulls():
  """Moving the clip changes text -> video only."""
  video, text, pairs = random_batch(1)
  pairs = pairs._replace(
    valid=np.ones(BATCH, bool),
    has_text=np.arange(BATCH) > 0,
    is_action=np.arange(BATCH) > 0,
  )

  def parts(video):
    return contrastive_sharded.contrastive_loss(
      video, text, pairs, 10.0, rules=contrastive.PRESETS["labels"]
    )[1]

  before, after = parts(video), parts(np.concatenate([-video[:1], video[1:]]))
  assert before["video_to_text"] == after["video_to_text"]
  assert before["text_to_video"] != after["text_to_video"]


@quickly
@hypothesis.given(
  seeds, extreme_presets, st.sampled_from(contrastive.OBJECTIVES), st.data()
)
def test_permuting_items_permutes_gradients(seed, preset, objective, data):
  video, text, pairs = random_batch(seed)
  order = np.array(data.draw(st.permutations(range(BATCH))))
  function = compiled(preset, objective)
  loss, gradients = function(video, text, 30.0, pairs)
  shuffled = type(pairs)(*(leaf[order] for leaf in pairs))
  loss_2, gradients_2 = function(video[order], text[order], 30.0, shuffled)
  assert loss_2 == pytest.approx(float(loss), rel=1e-5, abs=1e-6)
  for gradient, gradient_2 in zip(gradients[:2], gradients_2[:2], strict=True):
    size = np.max(np.abs(gradient)) + 1e-6
    difference = np.asarray(gradient)[order] - gradient_2
    assert np.max(np.abs(difference)) <= 2e-5 * size


@quickly
@hypothesis.given(
  seeds,
  extreme_presets,
  st.sampled_from(contrastive.OBJECTIVES),
  st.integers(1, 3),
)
def test_padding_changes_nothing(seed, preset, objective, place):
  """Four invalid items, in front, in the middle or behind."""
  video, text, pairs = random_batch(seed)
  loss, gradients = compiled(preset, objective)(video, text, 30.0, pairs)
  extra_video, extra_text, extra = random_batch(seed + 1, 4)
  extra = extra._replace(valid=np.zeros(4, bool))
  at = (place - 1) * BATCH // 2

  def insert(x, more):
    return np.concatenate([x[:at], more, x[at:]])

  padded = insert(video, extra_video), insert(text, extra_text)
  padded_pairs = type(pairs)(
    *(insert(leaf, more) for leaf, more in zip(pairs, extra, strict=True))
  )
  loss_2, gradients_2 = compiled(preset, objective)(*padded, 30.0, padded_pairs)
  assert loss_2 == pytest.approx(float(loss), rel=1e-5, abs=1e-6)
  for gradient, gradient_2 in zip(gradients[:2], gradients_2[:2], strict=True):
    inserted = np.asarray(gradient_2)[at : at + 4]
    assert np.all(inserted == 0)
    size = np.max(np.abs(gradient)) + 1e-6
    kept = np.delete(gradient_2, np.arange(at, at + 4), axis=0)
    assert np.max(np.abs(gradient - kept)) <= 2e-5 * size


@jax.jit
def dense_by_logit(logits, masks, weights):
  def loss(logits):
    return sum(
      contrastive.direction_sum(logits, masks, weights, axis=axis)
      for axis in (0, 1)
    ) + sum(contrastive.pairwise_sum(logits, masks))

  return jax.grad(loss)(logits)


@jax.jit
def tiled_by_logit(logits, masks, weights):
  initial = contrastive_states.initial_states(
    "softmax", num_rows=BATCH, num_columns=BATCH
  )
  final = contrastive_states.update_states(
    "softmax",
    logits,
    masks=masks,
    row_state=initial[0],
    column_state=initial[1],
  )
  residuals = [
    contrastive_states.finish_softmax(state, weights, jnp.sum(weights))[1]
    for state in final
  ]
  return contrastive_states.tile_gradient(
    "softmax",
    logits,
    masks=masks,
    row_residual=residuals[0],
    column_residual=residuals[1],
  )


@quickly
@hypothesis.given(seeds, presets, st.sampled_from([1.0, 100.0]))
def test_gradient_of_a_masked_pair_is_exactly_zero(seed, preset, scale):
  _, _, pairs = random_batch(seed)
  masks = compiled_masks(preset)(pairs)
  weights = contrastive.caption_weights(pairs)
  rng = np.random.default_rng(seed)
  logits = scale * rng.uniform(-1, 1, (BATCH, BATCH)).astype(np.float32)
  masked = ~np.asarray(masks.positive | masks.negative)
  for function in (dense_by_logit, tiled_by_logit):
    gradient = np.asarray(function(logits, masks, weights))
    assert np.all(np.isfinite(gradient))
    assert np.all(gradient[masked] == 0)
