"""Classes from texts: exact scores, and what is reported of which class."""

import numpy as np
import pytest

from clap_jax import config as config_lib
from clap_jax.data import features
from clap_jax.evaluation import zero_shot_classifier
from clap_jax.inference import model_directory, predict
from clap_jax.metrics import detection, protocols, tables
from clap_jax.trainers import registry
from configs import localization_open_sprites
from tests.configs import keys
from tests.trainers import toy_runs

GRID = features.FeatureGrid(start_sec=0.0, stride_sec=1.0, clip_sec=2.0)


def space_of(width=4, scale=10.0, seen_penalty=0.0):
  """Features lie where texts do."""
  nothing = np.zeros(width, np.float32)
  identity = np.eye(width, dtype=np.float32)
  return zero_shot_classifier.TextProjection(
    identity, nothing, nothing, scale, seen_penalty
  )


def axes(names, of="abcd"):
  """Class i lies along axis i."""
  return np.eye(len(of), dtype=np.float32)[[of.index(name) for name in names]]


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
  table = zero_shot_classifier.classified(
    proposals,
    {"v": features.VideoFeatures(sequence, GRID)},
    classifier=zero_shot_classifier.ZeroShotClassifier(
      space_of(), axes, frozenset(), 0
    ),
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
  protocol = protocols.PROTOCOLS["motion_sprites"]
  assert detection.evaluate(table, truth, protocol)["average_map"] == 1.0


def test_seen_names_lose_the_penalty():
  sequence = np.full((3, 4), 0.5, np.float32)  # as near to any name
  segments = np.array([[0.0, 2.0]])
  naming = zero_shot_classifier.ZeroShotClassifier(
    space_of(seen_penalty=0.3), axes, frozenset("bd"), 1
  )
  best, share = naming.best(sequence, segments, tuple("bad"))
  assert best.tolist() == [[1]]
  weight = np.exp(-10.0 * np.array([0.3, 0.0, 0.3]))
  np.testing.assert_allclose(share[0, 0], weight[1] / weight.sum(), rtol=1e-6)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"classes.text_model": "weights/minilm"}, "set classes.projection"),
    (
      {"classes.projection": "learned", "classes.text_scale": 3.0},
      "leave it at 0",
    ),
    ({"classes.projection": "guessed"}, "choose from towers, learned"),
  ],
)
def test_what_does_not_go_together(changes, message):
  config = localization_open_sprites.get_config("tiny")
  keys.change(config, changes)
  with pytest.raises(config_lib.ConfigError, match=message):
    registry.resolve(config)


def test_the_class_split_is_checked():
  config = localization_open_sprites.get_config("tiny")
  config.classes.class_split = "imagenet"
  with pytest.raises(config_lib.ConfigError, match="unknown class split"):
    registry.resolve(config)


@pytest.mark.slow
def test_a_learned_projection(pretrained_directory, tmp_path):
  split = tmp_path / "split.json"
  split.write_text(
    '{"base": ["slides", "spins"], "validation": [], "novel": ["fades"]}'
  )
  config = localization_open_sprites.get_config("tiny")
  keys.change(
    config,
    toy_runs.dataset_overrides(pretrained_directory)
    | {
      "data.features_dir": str(pretrained_directory / "features"),
      "classes.class_split": str(split),
      "classes.projection": "learned",
    },
  )
  rows = registry.train(config, tmp_path / "run")
  values = {row["metric"]: row["value"] for row in rows}
  for prefix in ("", "seen/", "unseen/", "unseen_alone/"):
    assert 0.0 <= values[f"{prefix}average_map"] <= 1.0
  assert "projection learned" in rows[0]["card"]["class_source"]
  assert "1 are unseen: fades" in rows[0]["card"]["notes"][1]
  assert registry.evaluate(tmp_path / "run") == rows
  model = model_directory.load_model(tmp_path / "run")
  with pytest.raises(ValueError, match="A label is empty"):
    predict.predict(model, [tmp_path / "video.mp4"], labels=[" "])
