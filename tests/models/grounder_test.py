import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from clap_jax.losses import grounding as losses
from clap_jax.losses.grounding import GroundingLossConfig, QueryTargets
from clap_jax.models.fusion import FusionConfig
from clap_jax.models.grounder import PyramidGrounder
from clap_jax.models.heads import HeadConfig
from clap_jax.models.localizer import DecodeConfig, decode_segments
from clap_jax.models.pyramid import PyramidConfig
from clap_jax.models.two_d_tan import TwoDTanConfig, TwoDTanGrounder
from clap_jax.ops import segments as segment_ops

NUM_STEPS, NUM_TOKENS, DEPTH = 32, 5, 12
PYRAMID = PyramidConfig(
  width=32,
  num_levels=3,
  num_heads=2,
  block="conv",
  num_stem_convs=1,
  num_stem_blocks=0,
  window_steps=7,
  dropout_rate=0.0,
)
FUSION = FusionConfig(num_heads=2, dropout_rate=0.0)
MODELS = {
  "pyramid": PyramidGrounder(PYRAMID, FUSION, HeadConfig(num_convs=1)),
  "map": TwoDTanGrounder(PYRAMID, FUSION, TwoDTanConfig(pooling_counts=(7, 6))),
  "map of 2D-TAN": TwoDTanGrounder(
    PYRAMID,
    FUSION,
    TwoDTanConfig(
      steps_per_clip=2,
      pooling_counts=(15,),
      pooling="max",
      num_graph_layers=0,
      num_map_convs=1,
      refine=False,
    ),
  ),
}
BOTH = ["pyramid", "map"]


class Batch(NamedTuple):
  """One query per row."""

  features: np.ndarray
  mask: np.ndarray
  query: np.ndarray
  query_mask: np.ndarray
  segment: np.ndarray  # (q, 2)


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
  return Batch(
    features=np.float32(features),
    mask=np.ones((count, NUM_STEPS), bool),
    query=np.where(query_mask[..., None], query, np.nan).astype(np.float32),
    query_mask=query_mask,
    segment=np.float32(segments),
  )


BATCH = synthetic_batch()
INPUTS = BATCH[:4]


@functools.cache
def initial_parameters(name):
  return jax.jit(MODELS[name].init)(jax.random.key(0), *INPUTS)


@functools.partial(jax.jit, static_argnums=0)
def apply(name, params, *inputs):
  return MODELS[name].apply(params, *inputs)


@jax.jit
def detect(moments):
  return decode_segments(
    moments.segments,
    jax.nn.sigmoid(moments.logits)[..., None],
    moments.mask,
    config=DecodeConfig(num_kept=5),
  )


def moment_loss(name, predictions, targets, config):
  if name == "pyramid":
    return losses.point_grounding_loss(predictions, targets, config=config)
  return losses.map_grounding_loss(
    predictions.logits,
    predictions.shifts,
    targets,
    candidates=predictions.candidates,
    mask=predictions.mask,
    config=config,
  )


@pytest.mark.parametrize("name", BOTH)
def test_overfitting_finds_the_moment_and_the_absent_queries(name):
  config = GroundingLossConfig(listwise_weight=0.2, saliency_weight=0.2)
  optimizer = optax.adam(3e-3)
  model = MODELS[name]
  # Each query also asks the next video, which lacks what it says or, for the
  # few that share a kind, is left out.
  other = np.roll(np.arange(8), 2)
  has_moment = np.array(
    [
      any(np.allclose(BATCH.query[i, 0], BATCH.query[j, 0]) for j in pair)
      for i, pair in enumerate(np.stack([other, other ^ 1], axis=-1))
    ]
  )
  steps = np.arange(NUM_STEPS)
  inside = (steps >= BATCH.segment[:, :1]) & (steps < BATCH.segment[:, 1:])
  targets = QueryTargets(
    segments=BATCH.segment[:, None],
    segment_mask=np.ones((8, 1), bool),
    saliency=inside.astype(np.float32),
    snippet_mask=BATCH.mask,
    is_absent=np.zeros(8, bool),
    valid=np.ones(8, bool),
  )

  def loss(params):
    out = model.apply(params, *INPUTS)
    swapped = model.apply(
      params, BATCH.features[other], BATCH.mask[other], *INPUTS[2:]
    )
    parts = moment_loss(name, out.predictions, targets, config)
    parts |= losses.saliency_loss(out.saliency_logits, targets, config=config)
    parts |= losses.absence_loss(
      jnp.concatenate([out.absence_logits, swapped.absence_logits]),
      jnp.arange(16) >= 8,
      valid=np.concatenate([targets.valid, ~has_moment]),
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

  params = run(initial_parameters(name))
  out = apply(name, params, *INPUTS)
  found = detect(out.moments)
  iou = segment_ops.iou(found.segments[:, 0], BATCH.segment)
  assert np.all(iou > 0.75), iou
  assert not np.any(found.labels)
  assert np.all(out.absence_logits < 0)
  swapped = apply(
    name, params, BATCH.features[other], BATCH.mask[other], *INPUTS[2:]
  )
  assert np.sum(~has_moment) >= 2
  assert np.all(swapped.absence_logits[~has_moment] > 0)
  agree = (np.asarray(out.saliency_logits) > 0) == inside
  assert agree.mean() > 0.9


@pytest.mark.parametrize("name", MODELS)
def test_one_encoding_serves_many_queries(name):
  params, model = initial_parameters(name), MODELS[name]
  expected = apply(name, params, *INPUTS)
  encode = functools.partial(model.apply, method="encode_video")
  score = jax.jit(functools.partial(model.apply, method="score"))
  encoded = jax.jit(encode)(params, BATCH.features[::2], BATCH.mask[::2])
  got = score(params, encoded, *INPUTS[2:], video_of_query=np.arange(8) // 2)
  close = functools.partial(np.testing.assert_allclose, atol=1e-4)
  jax.tree.map(close, got, expected)
  alone = jax.tree.map(lambda x: x[:1], encoded)
  got = score(params, alone, BATCH.query[:2], BATCH.query_mask[:2])
  close(got.absence_logits, expected.absence_logits[:2])
  with pytest.raises(ValueError, match="video_of_query"):
    model.apply(params, encoded, *INPUTS[2:], method="score")


@pytest.mark.parametrize("name", MODELS)
def test_padding_of_video_and_text_changes_nothing(name):
  params = initial_parameters(name)
  mask = BATCH.mask & (np.arange(NUM_STEPS) < 22)
  out = apply(name, params, BATCH.features, mask, *INPUTS[2:])
  longer = apply(
    name,
    params,
    np.where(mask[..., None], BATCH.features, np.nan)[:, :24],
    mask[:, :24],
    np.pad(BATCH.query, ((0, 0), (0, 3), (0, 0)), constant_values=np.nan),
    np.pad(BATCH.query_mask, ((0, 0), (0, 3))),
  )
  np.testing.assert_allclose(
    longer.absence_logits, out.absence_logits, atol=1e-4
  )
  np.testing.assert_allclose(
    longer.saliency_logits[:, :22], out.saliency_logits[:, :22], atol=1e-4
  )
  a, b = (detect(x.moments) for x in (out, longer))
  np.testing.assert_allclose(a.scores, b.scores, atol=1e-5)
  np.testing.assert_allclose(a.segments, b.segments, atol=1e-3)


@pytest.mark.parametrize("name", MODELS)
def test_empty_inputs_stay_finite_with_their_gradients(name):
  nothing = np.zeros_like(BATCH.query_mask)
  no_steps = np.zeros_like(BATCH.mask)

  def total(params, mask, query_mask):
    out = MODELS[name].apply(
      params, BATCH.features, mask, BATCH.query, query_mask
    )
    return (
      jnp.sum(out.absence_logits)
      + jnp.sum(out.moments.segments)
      + jnp.sum(out.moments.logits)
    )

  grad = jax.jit(jax.grad(total))
  for mask, query_mask in (
    (BATCH.mask, nothing),
    (no_steps, BATCH.query_mask),
    (no_steps, nothing),
  ):
    for leaf in jax.tree.leaves(
      grad(initial_parameters(name), mask, query_mask)
    ):
      assert np.all(np.isfinite(leaf))


def test_attention_pooling_sees_only_its_own_clips():
  """Changing clips outside a candidate changes neither score nor ends."""
  model = TwoDTanGrounder(
    dataclasses.replace(PYRAMID, num_stem_convs=0),
    FUSION,
    TwoDTanConfig(pooling_counts=(3,), num_graph_layers=0),
  )
  params = jax.jit(model.init)(jax.random.key(1), *INPUTS)
  # The trunk without convolutions and graph treats every step by itself.
  changed = BATCH.features.copy()
  changed[:, 10] *= -3.0  # a common offset would be normalised away
  before, after = (
    model.apply(params, x, *INPUTS[1:]).predictions
    for x in (BATCH.features, changed)
  )
  low, high = np.asarray(before.candidates).T
  touched = (low <= 10) & (high > 10)
  same = np.isclose(before.logits, after.logits, atol=1e-5)
  assert same[:, ~touched].all()
  assert not same[:, touched].all()


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"pooling": "mean"}, "pooling must be one of"),
    ({"map_kernel_size": 4}, "must be odd"),
    ({"steps_per_clip": 0}, "at least 1"),
  ],
)
def test_map_values_out_of_range(changes, message):
  with pytest.raises(ValueError, match=message):
    TwoDTanConfig(**changes)


def test_clips_must_divide_the_sequence():
  odd = [x[:, :31] for x in INPUTS[:2]]
  with pytest.raises(ValueError, match="not a multiple of steps_per_clip 2"):
    MODELS["map of 2D-TAN"].init(jax.random.key(0), *odd, *INPUTS[2:])
