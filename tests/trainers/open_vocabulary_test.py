"""Classes from texts: exact scores, and what is reported of which class."""

import types

import numpy as np
import pytest

from clap_jax import config as config_lib
from clap_jax import stages
from clap_jax.data import features
from clap_jax.inference import encoder as encoder_lib
from clap_jax.inference import extract, predict
from clap_jax.metrics import detection, tables
from clap_jax.trainers import open_vocabulary, results
from configs import localization_open_sprites
from tests.data import built_dataset
from tests.trainers import toy_runs

GRID = features.FeatureGrid(start_sec=0.0, stride_sec=1.0, clip_sec=2.0)


def texts_of(names, width=4):
  """Class i lies along axis i of the space, which is that of the features."""
  return types.SimpleNamespace(
    names=tuple(names),
    vectors=np.eye(width, dtype=np.float32)[: len(names)],
    video_projection=np.eye(width, dtype=np.float32),
    logit_scale=10.0,
  )


def test_probabilities_equal_the_loop():
  rng = np.random.default_rng(0)
  sequence = rng.normal(size=(9, 4)).astype(np.float32)
  texts = texts_of("abc")
  segments = np.array(
    [[0.2, 3.9], [-4, 20], [5.4, 5.6], [7.0, 8.0], [2.6, 2.9]]
  )
  steps = [range(1, 4), range(9), [6], [7, 8], [3]]
  got = open_vocabulary.class_probabilities(
    sequence, segments, texts=texts, chosen=[2, 0], text_scale=0.0
  )
  for row, inside in enumerate(steps):
    cosines = []
    for axis in (2, 0):
      unit = [sequence[i, axis] / np.linalg.norm(sequence[i]) for i in inside]
      cosines.append(10.0 * np.mean(unit))
    expected = np.exp(cosines) / np.exp(cosines).sum()
    if row == 2:  # the nearest step of 5.5 may be either neighbour
      continue
    np.testing.assert_allclose(got[row], expected, rtol=1e-5)
  np.testing.assert_allclose(got.sum(axis=1), 1.0)


def test_names_compete_and_scores_multiply():
  sequence = np.zeros((8, 4), np.float32)
  sequence[:4, 0] = 1.0  # "a", then "c"
  sequence[4:, 2] = 1.0
  proposals = tables.DetectionTable.from_columns(
    video=["v", "v"],
    start_sec=[1.0, 5.0],
    end_sec=[4.0, 8.0],
    label=["action", "action"],
    score=[0.8, 0.6],
    video_names=("u", "v"),
  )
  table = open_vocabulary.classified(
    proposals,
    {"v": features.VideoFeatures(sequence, GRID)},
    texts=texts_of("abc"),
    classes=open_vocabulary.TextClasses("motion_sprites", 2, 0.0),
    names=("c", "a"),
  )
  assert [table.label_names[i] for i in table.label] == ["a", "c", "c", "a"]
  sure = np.exp(10) / (np.exp(10) + 1)
  np.testing.assert_allclose(
    table.score, [0.8 * sure, 0.8 * (1 - sure), 0.6 * sure, 0.6 * (1 - sure)]
  )
  np.testing.assert_allclose(table.start_sec, [1, 1, 5, 5])
  truth = tables.SegmentTable.from_columns(
    video=["v"], start_sec=[5.0], end_sec=[8.0], label=["c"]
  )
  protocol = detection.PROTOCOLS["motion_sprites"]
  assert detection.evaluate(table, truth, protocol)["average_map"] == 1.0


def test_the_class_split_is_checked():
  config = localization_open_sprites.get_config("tiny")
  config.classes.class_split = "imagenet"
  with pytest.raises(config_lib.ConfigError, match="unknown class split"):
    open_vocabulary.resolve(config)


@pytest.mark.slow
def test_classes_never_trained_are_found_by_name(tmp_path):
  pretrained = toy_runs.pretrain(tmp_path)
  encoder = encoder_lib.load_encoder(pretrained)
  dataset = toy_runs.records.open_dataset(tmp_path, "toy/small")
  extract.extract(encoder, dataset, out=tmp_path / "features", stride_sec=0.5)
  split = tmp_path / "split.json"
  split.write_text(
    '{"base": ["slides", "spins"], "validation": [], "novel": ["fades"]}'
  )
  config = localization_open_sprites.get_config("tiny")
  config.update_from_flattened_dict(
    toy_runs.dataset_overrides(tmp_path)
    | {
      "data.features_dir": str(tmp_path / "features"),
      "classes.class_split": str(split),
    }
  )
  rows = stages.train(config, tmp_path / "open")
  values = {row["metric"]: row["value"] for row in rows}
  for prefix in ("", "seen/", "unseen/", "unseen_alone/"):
    assert 0.0 <= values[f"{prefix}average_map"] <= 1.0
  card = rows[0]["card"]
  assert "text tower" in card["class_source"]
  assert "1 are unseen: fades" in card["notes"][1]
  assert stages.evaluate(tmp_path / "open") == rows
  assert results.read(tmp_path / "open") == rows
  predict.write_model(
    tmp_path,
    encoder="pretrain",
    stride_sec=0.5,
    localization_dir="open",
    grounding_dir=None,
  )
  model = predict.load_model(tmp_path)
  video = tmp_path / "video.mp4"
  video.write_bytes(built_dataset.encode_mp4(64))
  labels = ["a cat that sleeps", "fades"]
  [found] = predict.predict(model, [video], labels=labels)["videos"]
  assert {entry["label"] for entry in found["predictions"]} == set(labels)
  [known] = predict.predict(model, [video])["videos"]
  assert {e["label"] for e in known["predictions"]} <= set(model.label_names)
  with pytest.raises(ValueError, match="A label is empty"):
    predict.predict(model, [video], labels=[" "])
