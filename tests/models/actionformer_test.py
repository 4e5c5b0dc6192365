import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clap_jax import types
from clap_jax.losses import localization as losses
from clap_jax.models import (
  actionformer,
  actionformer_config,
  actionformer_decoding,
)
from clap_jax.training import paths

SMALL = actionformer_config.ActionFormerConfig(
  width=8,
  num_stem_blocks=1,
  windows=(5, 5, -1),
  ranges=((0.0, 4.0), (2.0, 8.0), (8.0, 10000.0)),
  num_heads=2,
  head_width=6,
)
MAX_LENGTH, WIDTH, NUM_CLASSES = 16, 5, 3


def made(config=SMALL):
  model = actionformer.ActionFormer(config, NUM_CLASSES, MAX_LENGTH)
  features = jnp.ones((1, MAX_LENGTH, WIDTH))
  mask = jnp.ones((1, MAX_LENGTH), bool)
  return model, {
    "params": model.init(jax.random.key(0), features, mask)["params"]
  }


@pytest.mark.parametrize(
  ("windows", "num_steps", "max_length", "expected"),
  [
    ((19,) * 6, 700, 2304, 2304),
    ((19,) * 6, 2304, 2304, 2304),
    ((19,) * 6, 2305, 2304, 2880),  # 576 at a time
    ((9,) * 8, 1025, 1024, 2048),
    ((7, 7, 7, 7, 7, -1), 193, 192, 288),  # 16 times 6
    ((-1,) * 6, 193, 192, 224),
  ],
)
def test_padded_length(windows, num_steps, max_length, expected):
  config = dataclasses.replace(
    SMALL, windows=windows, ranges=((0.0, 1.0),) * len(windows)
  )
  found = actionformer_config.padded_length(
    num_steps, config, max_length=max_length
  )
  assert found == expected


def test_positions_of_longer_sequences_are_interpolated():
  codes = actionformer.position_codes(8, 6, max_length=8)
  angle = 3 / 10_000 ** (2 / 6)
  expected = np.array([np.sin(angle), np.cos(angle)]) / np.sqrt(6)
  np.testing.assert_allclose(codes[3, 2:4], expected, atol=1e-6)
  longer = actionformer.position_codes(20, 6, max_length=8)
  places = (np.arange(20) + 0.5) * 8 / 20 - 0.5
  expected = [np.interp(places, np.arange(8), column) for column in codes.T]
  np.testing.assert_allclose(longer.T, expected, atol=1e-6)
  np.testing.assert_array_equal(
    actionformer.position_codes(5, 6, max_length=8), codes[:5]
  )


def test_streams_are_projected_apart():
  config = dataclasses.replace(
    SMALL, stream_widths=(2, 3), projected_widths=(6, 2)
  )
  _, params = made(config)
  shapes = jax.tree.map(jnp.shape, params["params"])
  assert shapes["project_0"]["kernel"] == (2, 6)
  assert shapes["project_1"]["kernel"] == (3, 2)
  assert shapes["stem_0"]["dense"]["kernel"] == (3 * 8, 8)


def test_first_probabilities():
  model, params = made(dataclasses.replace(SMALL, empty_classes=(1,)))
  bias = params["params"]["class_head"]["out"]["dense"]["bias"]
  np.testing.assert_allclose(
    jax.nn.sigmoid(bias), [0.01, 1e-6, 0.01], rtol=1e-4
  )
  assert model.num_classes == NUM_CLASSES


def test_a_dropped_path_is_dropped_whole():
  config = dataclasses.replace(SMALL, drop_path_rate=0.5)
  model, params = made(config)
  flat = paths.flatten(params)
  flat = {
    # Nothing of a branch is small, so that a dropped one shows.
    name: leaf + (1.0 if name.endswith("_path/scale") else 0.0)
    for name, leaf in flat.items()
  }
  params = paths.nest(flat)
  features = jnp.tile(
    jnp.linspace(-1, 1, MAX_LENGTH)[None, :, None], (64, 1, 5)
  )
  mask = jnp.ones((64, MAX_LENGTH), bool)
  found = model.apply(
    params,
    features,
    mask,
    deterministic=False,
    rngs={"dropout": jax.random.key(1)},
  )
  # Equal inputs differ by which of the six branches are dropped, no more.
  kinds = np.unique(np.round(found.offsets.reshape(64, -1), 4), axis=0)
  assert 2 < len(kinds) <= 2**6


@pytest.mark.parametrize(
  ("changes", "match"),
  [
    ({"windows": (4, 5, 5)}, "windows"),
    ({"windows": (5, 5)}, "ranges"),
    ({"num_heads": 3}, "num_heads"),
    ({"stream_widths": (2, 3), "projected_widths": (4, 2)}, "projected_widths"),
    ({"head_kernel_size": 2}, "head_kernel_size"),
    ({"prior_probability": 0.0}, "prior_probability"),
  ],
)
def test_wrong_configs(changes, match):
  with pytest.raises(ValueError, match=match):
    dataclasses.replace(SMALL, **changes)


def test_lengths_that_levels_do_not_divide():
  with pytest.raises(ValueError, match="max_length"):
    actionformer_config.check_length(SMALL, 12)
  actionformer_config.check_length(SMALL, 16)


def test_decoding_keeps_the_best_of_each_level():
  model, params = made()
  features = np.random.default_rng(0).normal(size=(2, MAX_LENGTH, WIDTH))
  mask = np.arange(MAX_LENGTH) < np.array([[16], [9]])
  predictions = model.apply(params, features.astype(np.float32), mask)
  config = actionformer_decoding.ActionFormerDecodeConfig(
    num_candidates=4, num_kept=6, min_length=0.0, min_candidate_score=0.0
  )
  found = actionformer_decoding.candidates(
    predictions, num_levels=3, config=config
  )
  assert found.scores.shape == (2, 3 * 4)
  level_of = np.asarray(predictions.points.level)
  for level in range(3):
    own = np.asarray(jax.nn.sigmoid(predictions.class_logits))[
      :, level_of == level
    ]
    valid = np.asarray(predictions.point_mask)[:, level_of == level]
    for row in range(2):
      expected = np.sort(own[row][valid[row]].ravel())[::-1][:4]
      best = found.scores[row, 4 * level : 4 * level + 4]
      np.testing.assert_allclose(best[: len(expected)], expected, rtol=1e-6)
  kept = actionformer_decoding.decode(predictions, num_levels=3, config=config)
  assert kept.segments.shape == (2, 6, 2)


def loss_of(config, normalizer=100.0):
  model, params = made()
  features = np.random.default_rng(1).normal(size=(1, MAX_LENGTH, WIDTH))
  mask = np.ones((1, MAX_LENGTH), bool)
  batch = types.LocalizationBatch(
    features=features.astype(np.float32),
    mask=mask,
    segments=np.array([[[2.0, 5.5]]], np.float32),
    labels=np.array([[1]], np.int32),
    segment_mask=np.ones((1, 1), bool),
    video_index=np.zeros(1, np.int32),
  )
  predictions = model.apply(params, batch.features, batch.mask)
  return losses.normalized_loss(
    predictions, batch, normalizer=jnp.float32(normalizer), config=config
  )


def test_the_normalizer_is_a_moving_average():
  config = losses.NormalizedLossConfig(normalizer_momentum=0.75)
  _, first, after = loss_of(config, 8.0)
  _, second, again = loss_of(config, float(after))
  # Positive points stay as many: the average approaches their number.
  num_positives = (float(after) - 0.75 * 8.0) / 0.25
  assert num_positives == round(num_positives) >= 1
  np.testing.assert_allclose(again, 0.75 * after + 0.25 * num_positives)
  np.testing.assert_allclose(first["class"] * after, second["class"] * again)


def test_weights_of_the_boundary_loss():
  loss, parts, _ = loss_of(losses.NormalizedLossConfig(offset_weight=2.0))
  np.testing.assert_allclose(loss, parts["class"] + 2 * parts["offset"])
  loss, parts, _ = loss_of(losses.NormalizedLossConfig(offset_weight=-1.0))
  weight = parts["class"] / jnp.maximum(parts["offset"], 0.01)
  np.testing.assert_allclose(
    loss, parts["class"] + weight * parts["offset"], rtol=1e-6
  )
