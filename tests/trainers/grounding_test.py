"""The grounding task learns, and its moments come back in seconds."""

import jax
import numpy as np
import pytest

from clap_jax import config as config_lib
from clap_jax.metrics import grounding as metrics
from clap_jax.trainers import feature_data, grounding
from clap_jax.types import Detections
from configs import grounding_sprites
from tests.trainers import toy_features


def resolved(directory, **changes):
  config = grounding_sprites.get_config("tiny")
  config.update_from_flattened_dict(
    toy_features.overrides(directory, **{"fusion.dropout_rate": 0.0} | changes)
  )
  return grounding.resolve(config)


@pytest.fixture(scope="module")
def parts(toy_directory):
  """(config, reader, source, task)."""
  config = resolved(toy_directory)
  reader = feature_data.FeatureReader(config.data)
  source = reader.grounding_source("train")
  facts = grounding.model_facts(config, source)
  task = grounding.make_task(facts, loss_config=config.loss)
  return config, reader, source, task


@pytest.fixture(scope="module")
def params(parts):
  return jax.jit(parts[3].init)(jax.random.key(0))


def test_a_step_along_the_gradient_lowers_the_loss(parts, params):
  _, _, source, task = parts
  batch = source.collate([source[i] for i in range(6)], batch_size=8)
  rng = jax.random.key(1)
  value_and_grad = jax.jit(jax.value_and_grad(task.loss, has_aux=True))
  (before, scalars), gradients = value_and_grad(params, batch, rng)
  assert len(scalars) >= 3
  assert all(np.isfinite(value) for value in scalars.values())
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
  smaller = jax.tree.map(lambda p, g: p - 0.05 * g, params, gradients)
  (after, _), _ = value_and_grad(smaller, batch, rng)
  assert after < before

  nothing = batch._replace(valid=np.zeros_like(batch.valid))
  (empty, _), gradients = value_and_grad(params, nothing, rng)
  assert empty == 0.0
  assert all((leaf == 0).all() for leaf in jax.tree.leaves(gradients))


def test_many_queries_on_one_video_are_as_one_by_one(parts, params):
  _, _, source, task = parts
  batch = source.collate([source[0], source[1]], batch_size=2)
  find = jax.jit(task.find)
  features, mask = batch.features[:1], batch.mask[:1]
  both = find(params, features, mask, batch.query, batch.query_mask)
  for row in range(2):
    take = slice(row, row + 1)
    one = find(
      params, features, mask, batch.query[take], batch.query_mask[take]
    )
    np.testing.assert_allclose(both["absence"][take], one["absence"], rtol=1e-4)
    np.testing.assert_allclose(
      both["detections"].scores[take], one["detections"].scores, rtol=1e-4
    )


def test_the_truth_scores_one(parts):
  config, reader, source, _ = parts

  def predict(batch):
    rows = len(batch.query_index)
    return {
      "detections": Detections(
        segments=batch.segment[:, None],
        scores=np.ones((rows, 1), np.float32),
        labels=np.zeros((rows, 1), np.int32),
        mask=np.ones((rows, 1), bool),
      ),
      "absence": np.linspace(0, 1, rows),
    }

  predictor = toy_features.FixedPredictor(predict)
  found, truth = grounding.moments(reader, predictor, None, "train")
  assert len(found) == len(truth) == len(source)
  assert set(found) == set(truth)
  assert all(entry["text"] in key for key, entry in found.items())
  windows = {key: entry["windows"] for key, entry in found.items()}
  protocol = metrics.protocol_named(config.protocol)
  values = metrics.evaluate(windows, truth, protocol)
  assert values["r1@0.7"] == 1.0
  assert values["miou"] == pytest.approx(1.0, abs=1e-5)


def test_queries_of_a_skipped_video_count_as_missed(own_toy_directory):
  (own_toy_directory / "features" / "video_000.npz").unlink()
  path = own_toy_directory / "features" / feature_data.EXTRACTION_FILE
  text = path.read_text()
  path.write_text(
    text.replace('"failed": []', '"failed": [{"id": "video_000"}]')
  )
  config = resolved(own_toy_directory)
  reader = feature_data.FeatureReader(config.data)

  def predict(batch):
    rows = len(batch.query_index)
    return {
      "detections": Detections(
        segments=batch.segment[:, None],
        scores=np.ones((rows, 1), np.float32),
        labels=np.zeros((rows, 1), np.int32),
        mask=np.ones((rows, 1), bool),
      ),
      "absence": np.zeros(rows),
    }

  predictor = toy_features.FixedPredictor(predict)
  found, truth = grounding.moments(reader, predictor, None, "train")
  assert len(found) < len(truth)
  windows = {key: entry["windows"] for key, entry in found.items()}
  protocol = metrics.protocol_named(config.protocol)
  values = metrics.evaluate(windows, truth, protocol)
  assert values["r1@0.5"] == pytest.approx(len(found) / len(truth))


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"loss.absence_weight": -0.1}, "loss"),
    ({"protocol": "motion"}, "protocol: got 'motion'; choose"),
    ({"fusion.num_heads": 3}, r"fusion\.num_heads is 3.*pyramid\.width 16"),
    ({"pyramid.width": 0}, "pyramid"),
  ],
)
def test_values_out_of_range(toy_directory, changes, message):
  with pytest.raises(config_lib.ConfigError, match=message):
    resolved(toy_directory, **changes)
