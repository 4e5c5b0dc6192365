"""Layers of Moment-DETR against NumPy, and what surrounds them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clap_jax.models import detr_layers, moment_detr
from clap_jax.models.detr_layers import MomentDetrConfig

SMALL = {"width": 8, "num_heads": 2, "mlp_width": 12}


def norm_of(x, p):
  mean, var = x.mean(axis=-1, keepdims=True), x.var(axis=-1, keepdims=True)
  return (x - mean) / np.sqrt(var + 1e-5) * p["scale"] + p["bias"]


def linear(x, p):
  return x @ p["kernel"] + p["bias"]


def attend(query, key, value, p, mask):
  """One head after the other, one query after the other."""
  q, k, v = (
    linear(x, p[n]) for n, x in zip("qkv", (query, key, value), strict=True)
  )
  rows = []
  for row in q:
    parts = []
    for head in range(SMALL["num_heads"]):
      own = slice(4 * head, 4 * head + 4)
      logits = k[:, own] @ row[own] / 2  # the root of four channels
      weights = np.exp(logits) * mask
      parts.append(weights / weights.sum() @ v[:, own])
    rows.append(np.concatenate(parts))
  return linear(np.array(rows), p["out"])


def mlp(x, p):
  hidden = np.maximum(linear(x, p["up"]["dense"]), 0)
  return linear(hidden, p["down"]["dense"])


def drawn(model, *inputs, **options):
  """Parameters of a model that are all random; faster than its own start."""
  rng = np.random.default_rng(2)
  shapes = jax.eval_shape(
    lambda: model.init(jax.random.key(0), *inputs, **options)
  )
  return jax.tree.map(
    lambda leaf: rng.normal(0, 0.5, leaf.shape).astype(np.float32), shapes
  )


@pytest.mark.parametrize("norm_first", [False, True])
def test_a_decoder_layer(norm_first):
  config = MomentDetrConfig(**SMALL, norm_first=norm_first)
  layer = detr_layers.DecoderLayer(config)
  rng = np.random.default_rng(0)
  x, codes = rng.normal(size=(2, 1, 5, 8))
  memory, positions = rng.normal(size=(2, 1, 7, 8))
  mask = np.arange(7)[None] < 4
  inputs = (x, codes, memory, positions, mask)
  params = drawn(layer, *inputs, deterministic=True)
  found = jax.jit(layer.apply, static_argnames="deterministic")(
    params, *inputs, deterministic=True
  )
  p, y, codes, memory = params["params"], x[0], codes[0], memory[0]
  branches = (
    (
      "attention_norm",
      lambda y: attend(y + codes, y + codes, y, p["attention"], np.ones(5)),
    ),
    (
      "memory_norm",
      lambda y: attend(
        y + codes, memory + positions[0], memory, p["memory_attention"], mask[0]
      ),
    ),
    ("mlp_norm", lambda y: mlp(y, p)),
  )
  for name, branch in branches:
    if norm_first:
      y = y + branch(norm_of(y, p[name]))
    else:
      y = norm_of(y + branch(y), p[name])
  np.testing.assert_allclose(found[0], y, rtol=1e-4, atol=1e-4)


def inputs(length=6, padding=0):
  rng = np.random.default_rng(1)
  features = rng.normal(size=(1, length, 5)).astype(np.float32)
  features = np.pad(features, ((0, 0), (0, padding), (0, 0)))
  query = rng.normal(size=(1, 4, 3)).astype(np.float32)
  mask = np.arange(length + padding)[None] < length
  return features, mask, query, np.ones((1, 4), bool)


def test_padding_changes_nothing():
  config = MomentDetrConfig(
    **SMALL,
    num_encoder_layers=1,
    num_decoder_layers=1,
    num_moments=3,
    normalize_text=True,
  )
  model = moment_detr.MomentDetr(config)
  params = drawn(model, *inputs())
  short = jax.jit(model.apply)(params, *inputs())
  features, mask, query, query_mask = inputs(padding=3)
  # More tokens than are read, or masked, are as if they were not there.
  query = np.pad(query, ((0, 0), (0, 40), (0, 0)), constant_values=7.0)
  query_mask = np.pad(query_mask, ((0, 0), (0, 40)))
  query_mask[:, 35:] = True  # beyond max_text_length
  long = jax.jit(model.apply)(params, features, mask, query, query_mask)
  for ours, theirs in zip(long.moments, short.moments, strict=True):
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
  np.testing.assert_allclose(
    long.saliency_logits[:, :6], short.saliency_logits, atol=1e-4
  )
  np.testing.assert_allclose(
    short.absence_logits, -short.moments.logits.max(axis=-1)
  )


def test_inputs_as_published():
  """Every stream of length one, and start and end as shares of the video."""
  config = MomentDetrConfig(stream_widths=(2, 3), time_channels=True)
  features, mask, _, _ = inputs(length=4, padding=1)
  found = np.asarray(
    moment_detr.video_inputs(features, jnp.asarray(mask), config=config)
  )
  assert found.shape == (1, 5, 7)
  for start, stop in ((0, 2), (2, 5)):
    part = features[0, :4, start:stop]
    norm = np.linalg.norm(part, axis=-1, keepdims=True)
    np.testing.assert_allclose(
      found[0, :4, start:stop], part / (norm + 1e-5), rtol=1e-5
    )
  np.testing.assert_allclose(found[0, :4, 5], [0, 0.25, 0.5, 0.75])
  np.testing.assert_allclose(found[0, :4, 6], [0.25, 0.5, 0.75, 1])
  assert (found[0, 4] == 0).all()
  with pytest.raises(ValueError, match="together 4"):
    moment_detr.video_inputs(
      features, jnp.asarray(mask), config=MomentDetrConfig(stream_widths=(4,))
    )


def test_gradients_of_zero_features_are_finite():
  zero = jnp.zeros((1, 2, 3))
  gradient = jax.grad(lambda x: moment_detr.unit(x).sum())(zero)
  assert np.isfinite(gradient).all()


@pytest.mark.parametrize(
  ("changes", "match"),
  [
    ({"num_projections": 4}, "num_projections"),
    ({"num_heads": 3}, "num_heads"),
    ({"num_moments": 0}, "num_moments"),
    ({"input_dropout_rate": 1.0}, "input_dropout_rate"),
    ({"stream_widths": (4, 0)}, "stream_widths"),
  ],
)
def test_values_out_of_range(changes, match):
  with pytest.raises(ValueError, match=match):
    MomentDetrConfig(**changes)
