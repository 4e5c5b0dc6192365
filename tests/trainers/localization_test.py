"""The localization task learns, and its detections come back in seconds."""

import dataclasses
import types

import jax
import numpy as np
import pytest

from clap_jax import config as config_lib
from clap_jax.data import feature_reader
from clap_jax.evaluation import localization as evaluation
from clap_jax.metrics import detection, protocols
from clap_jax.trainers import localization, localizers, registry
from clap_jax.types import Detections
from configs import localization_sprites
from tests.configs import keys
from tests.trainers import toy_features


def resolved(directory, **changes):
  config = localization_sprites.get_config("tiny")
  keys.change(config, toy_features.overrides(directory, **changes))
  return registry.resolve(config)


@pytest.fixture(scope="module")
def parts(toy_directory):
  """(config, reader, source, facts)."""
  config = resolved(toy_directory)
  reader = feature_reader.FeatureReader(config.data)
  source = reader.localization_source("train")
  facts = localizers.model_metadata(config, reader.dataset.label_names, 12)
  return config, reader, source, facts


def test_a_step_along_the_gradient_lowers_the_loss(parts):
  config, _, source, facts = parts
  task = localizers.make_task(facts, loss_config=config.loss)
  batch = source.collate([source[i] for i in range(6)], batch_size=8)
  rng = jax.random.key(1)
  value_and_grad = jax.jit(jax.value_and_grad(task.loss, has_aux=True))
  params = jax.jit(task.init)(jax.random.key(0))
  (before, metrics), gradients = value_and_grad(params, batch, rng)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
  assert sum(metrics.values()) == pytest.approx(before)
  smaller = jax.tree.map(lambda p, g: p - 0.05 * g, params, gradients)
  (after, _), _ = value_and_grad(smaller, batch, rng)
  assert after < before

  padding = jax.tree.map(np.array, batch)
  padding.features[6:] = 100.0  # rows of no video
  (again, _), _ = value_and_grad(params, padding, rng)
  np.testing.assert_allclose(again, before, rtol=1e-6)


def perfect(source, num_kept=5):
  """A predictor that knows: the true segments, then masked nonsense."""

  def predict(batch):
    rows = len(batch.video_index)
    output = Detections(
      segments=np.full((rows, num_kept, 2), 1e6, np.float32),
      scores=np.full((rows, num_kept), 0.9, np.float32),
      labels=np.zeros((rows, num_kept), np.int32),
      mask=np.zeros((rows, num_kept), bool),
    )
    count = source.max_segments
    output.segments[:, :count] = batch.segments
    output.labels[:, :count] = batch.labels
    output.mask[:, :count] = batch.segment_mask
    output.mask[batch.video_index < 0] = True  # padding rows: must not count
    return output

  return toy_features.FixedPredictor(predict)


def test_the_truth_scores_one(parts):
  config, reader, source, _ = parts
  table = evaluation.detections(
    reader, perfect(source), None, "train", decode=config.decode
  )
  truth = evaluation.ground_truth(reader, "train")
  assert len(table) == len(truth) == 15
  protocol = protocols.PROTOCOLS[config.protocol]
  metrics = detection.evaluate(table, truth, protocol)
  assert metrics["average_map"] == pytest.approx(1.0)


def test_detections_are_cut_to_the_video(parts):
  config, reader, _source, _ = parts

  def predict(batch):
    rows = len(batch.video_index)
    return Detections(
      segments=np.tile(np.float32([[[-50.0, 400.0]]]), (rows, 1, 1)),
      scores=np.full((rows, 1), 0.5, np.float32),
      labels=np.full((rows, 1), 2, np.int32),
      mask=np.ones((rows, 1), bool),
    )

  predictor = toy_features.FixedPredictor(predict)
  table = evaluation.detections(
    reader, predictor, None, "train", decode=config.decode
  )
  assert len(table) == 6
  np.testing.assert_allclose(table.segments, [[0.0, 12.0]] * 6)
  assert {table.label_names[i] for i in table.label} == {"fades"}


@pytest.mark.parametrize(
  ("names", "path", "is_said"),
  [
    ((localizers.ANY_ACTION,), "", True),
    ((localizers.ANY_ACTION,), "scores.json", False),
    (None, "", False),
  ],
)
def test_classes_that_the_data_lacks_are_said_before_training(
  parts, capsys, names, path, is_said
):
  config, reader, _, facts = parts
  config = dataclasses.replace(
    config, classifier=evaluation.ClassifierConfig(path=path)
  )
  task = localizers.make_task(facts)
  evaluation.Evaluator(config, reader, task, names or facts["label_names"])
  assert ("classifier.path" in capsys.readouterr().err) == is_said


def test_a_split_without_segments_says_so():
  info = types.SimpleNamespace(
    id="a", segments=np.zeros((0, 2)), labels=np.zeros(0, int)
  )
  reader = types.SimpleNamespace(
    dataset=types.SimpleNamespace(label_names=("x",)),
    examples=lambda split: (info,),
  )
  with pytest.raises(ValueError, match=r"'test' has no labelled segment"):
    evaluation.ground_truth(reader, "test")


def test_the_facts_rebuild_the_model(parts):
  config, _, _, facts = parts
  task = localizers.make_task(facts)
  trained = localizers.make_task(facts, loss_config=config.loss)
  assert task.model == trained.model
  assert task.decode_config == dataclasses.replace(config.decode)
  shapes = jax.eval_shape(task.init, jax.random.key(0))
  features = np.zeros((2, 64, 12), np.float32)  # longer than max_length
  found = jax.eval_shape(task.detect, shapes, features, np.ones((2, 64), bool))
  assert found.segments.shape == (2, config.decode.num_kept, 2)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"data.max_length": 4}, r"data\.max_length: must be at least 8"),
    ({"protocol": "kinetics"}, "protocol: got 'kinetics'; choose"),
    ({"decode.sigma": -1.0}, "decode"),
    ({"loss.offset_similarity": "l1"}, "loss"),
    ({"pyramid.block": "mamba"}, "pyramid"),
    ({"pyramid.num_heads": 3}, r"pyramid\.num_heads is 3"),
    ({"pyramid.width": 0}, "pyramid"),
  ],
)
def test_values_out_of_range(toy_directory, changes, message):
  with pytest.raises(config_lib.ConfigError, match=message):
    resolved(toy_directory, **changes)


def test_nothing_is_written_without_features(toy_directory, tmp_path):
  config = resolved(toy_directory, **{"data.features_dir": str(tmp_path)})
  with pytest.raises(FileNotFoundError, match="clap extract"):
    localization.train(config, tmp_path / "run")
  assert not (tmp_path / "run").exists()
