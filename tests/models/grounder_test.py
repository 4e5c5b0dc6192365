import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from clap_jax.losses.grounding import (
  GroundingLossConfig,
  absence_loss,
  grounding_loss,
)
from clap_jax.models.fusion import FusionConfig
from clap_jax.models.grounder import Grounder, GrounderConfig
from clap_jax.models.heads import HeadConfig
from clap_jax.models.localizer import DecodeConfig, decode
from clap_jax.models.pyramid import PyramidConfig
from clap_jax.ops import segments as segment_ops
from clap_jax.types import GroundingBatch

NUM_STEPS, NUM_TOKENS, DEPTH = 32, 5, 12
MODEL = Grounder(
  GrounderConfig(
    PyramidConfig(
      width=32,
      num_levels=3,
      num_heads=2,
      block="conv",
      num_stem_convs=1,
      num_stem_blocks=0,
      window_steps=7,
      dropout_rate=0.0,
    ),
    FusionConfig(num_heads=2, dropout_rate=0.0),
    HeadConfig(num_convs=1),
  )
)


def synthetic_batch(seed=0, num_videos=4):
  """Two queries per video: each names one of its two moments."""
  rng = np.random.default_rng(seed)
  directions = rng.normal(size=(4, DEPTH))
  words = rng.normal(size=(4, NUM_TOKENS, DEPTH))
  features, segments, query = [], [], []
  steps = np.arange(NUM_STEPS)
  for _ in range(num_videos):
    x = 0.3 * rng.normal(size=(NUM_STEPS, DEPTH))
    first, second = rng.permutation(4)[:2]
    start = rng.uniform(0, 4)
    middle = start + rng.uniform(3, 6)
    late = middle + rng.uniform(2, 4)
    spans = [(start, middle), (late, late + rng.uniform(7, 12))]
    for (a, b), kind in zip(spans, (first, second), strict=True):
      cover = np.minimum(steps + 0.5, b) - np.maximum(steps - 0.5, a)
      x += np.clip(cover, 0, 1)[:, None] * directions[kind]
      segments.append((a, b))
      query.append(words[kind])
    features += [x, x]
  count = len(query)
  query_mask = np.arange(NUM_TOKENS) < rng.integers(2, 6, count)[:, None]
  return GroundingBatch(
    features=np.float32(features),
    mask=np.ones((count, NUM_STEPS), bool),
    query=np.where(query_mask[..., None], query, np.nan).astype(np.float32),
    query_mask=query_mask,
    segment=np.float32(segments),
    valid=np.ones(count, bool),
    query_index=np.arange(count, dtype=np.int32),
  )


BATCH = synthetic_batch()
INPUTS = BATCH[:4]


@functools.cache
def initial_parameters():
  return jax.jit(MODEL.init)(jax.random.key(0), *INPUTS)


@jax.jit
def apply(params, *inputs):
  return MODEL.apply(params, *inputs)


@jax.jit
def detect(predictions):
  return decode(predictions, config=DecodeConfig(num_kept=5))


def test_overfitting_finds_the_moment_and_the_absent_queries():
  config = GroundingLossConfig(listwise_weight=0.2)
  optimizer = optax.adam(3e-3)
  # Each query also asks the next video, which lacks what it says or, for the
  # few that share a kind, is left out.
  other = np.roll(np.arange(8), 2)
  has_moment = np.array(
    [
      any(np.allclose(BATCH.query[i, 0], BATCH.query[j, 0]) for j in pair)
      for i, pair in enumerate(np.stack([other, other ^ 1], axis=-1))
    ]
  )

  def loss(params):
    out = MODEL.apply(params, *INPUTS)
    swapped = MODEL.apply(
      params, BATCH.features[other], BATCH.mask[other], *INPUTS[2:]
    )
    parts = grounding_loss(out.predictions, BATCH, config=config)
    parts |= absence_loss(
      jnp.concatenate([out.absence_logits, swapped.absence_logits]),
      jnp.arange(16) >= 8,
      valid=np.concatenate([BATCH.valid, ~has_moment]),
      config=config,
    )
    return sum(s / jnp.maximum(n, 1) for s, n in parts.values())

  @jax.jit
  def run(params):
    def step(carry, _):
      params, state = carry
      grad = jax.grad(loss)(params)
      updates, state = optimizer.update(grad, state, params)
      return (optax.apply_updates(params, updates), state), None

    carry = (params, optimizer.init(params))
    return jax.lax.scan(step, carry, length=120)[0][0]

  params = run(initial_parameters())
  out = apply(params, *INPUTS)
  found = detect(out.predictions)
  iou = segment_ops.iou(found.segments[:, 0], BATCH.segment)
  assert np.all(iou > 0.8), iou
  assert not np.any(found.labels)
  assert np.all(out.absence_logits < 0)
  swapped = apply(params, BATCH.features[other], BATCH.mask[other], *INPUTS[2:])
  assert np.sum(~has_moment) >= 2
  assert np.all(swapped.absence_logits[~has_moment] > 0)


def test_one_encoding_serves_many_queries():
  params = initial_parameters()
  expected = apply(params, *INPUTS)
  encode = functools.partial(MODEL.apply, method="encode_video")
  score = jax.jit(
    functools.partial(MODEL.apply, method="score", num_steps=NUM_STEPS)
  )
  encoded = jax.jit(encode)(params, BATCH.features[::2], BATCH.mask[::2])
  got = score(params, encoded, *INPUTS[2:], video_of_query=np.arange(8) // 2)
  close = functools.partial(np.testing.assert_allclose, atol=1e-4)
  jax.tree.map(close, got, expected)
  alone = jax.tree.map(lambda x: x[:1], encoded)
  got = score(params, alone, BATCH.query[:2], BATCH.query_mask[:2])
  close(got.absence_logits, expected.absence_logits[:2])
  with pytest.raises(ValueError, match="video_of_query"):
    MODEL.apply(
      params, encoded, *INPUTS[2:], method="score", num_steps=NUM_STEPS
    )


def test_padding_of_video_and_text_changes_nothing():
  params = initial_parameters()
  mask = BATCH.mask & (np.arange(NUM_STEPS) < 21)
  out = apply(params, BATCH.features, mask, *INPUTS[2:])
  longer = apply(
    params,
    np.where(mask[..., None], BATCH.features, np.nan)[:, :24],
    mask[:, :24],
    np.pad(BATCH.query, ((0, 0), (0, 3), (0, 0)), constant_values=np.nan),
    np.pad(BATCH.query_mask, ((0, 0), (0, 3))),
  )
  np.testing.assert_allclose(
    longer.absence_logits, out.absence_logits, atol=1e-4
  )
  a, b = (detect(x.predictions) for x in (out, longer))
  np.testing.assert_allclose(a.scores, b.scores, atol=1e-5)
  np.testing.assert_allclose(a.segments, b.segments, atol=1e-3)


def test_empty_inputs_stay_finite_with_their_gradients():
  nothing = np.zeros_like(BATCH.query_mask)
  no_steps = np.zeros_like(BATCH.mask)

  def total(params, mask, query_mask):
    out = MODEL.apply(params, BATCH.features, mask, BATCH.query, query_mask)
    return jnp.sum(out.absence_logits) + jnp.sum(out.predictions.offsets)

  grad = jax.jit(jax.grad(total))
  for mask, query_mask in (
    (BATCH.mask, nothing),
    (no_steps, BATCH.query_mask),
    (no_steps, nothing),
  ):
    for leaf in jax.tree.leaves(grad(initial_parameters(), mask, query_mask)):
      assert np.all(np.isfinite(leaf))
