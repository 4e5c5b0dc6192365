"""The grounding task learns, and its moments come back in seconds."""

import json

import jax
import numpy as np
import pytest

from clap_jax import config as config_lib
from clap_jax.data import feature_reader, queries
from clap_jax.evaluation import grounding as evaluation
from clap_jax.evaluation import moment_retrieval
from clap_jax.metrics import grounding as metrics
from clap_jax.metrics.score import score
from clap_jax.trainers import grounding, registry
from configs import grounding_sprites
from tests.configs import keys
from tests.trainers import toy_features

KINDS = ["pyramid", "map", "detr"]
NO_DROPOUT = {
  "fusion.dropout_rate": 0.0,
  "detr.dropout_rate": 0.0,
  "detr.input_dropout_rate": 0.0,
}


def resolved(directory, kind="pyramid", **changes):
  config = grounding_sprites.get_config(f"tiny,kind={kind}")
  keys.change(
    config,
    toy_features.overrides(directory, **NO_DROPOUT | changes),
  )
  return registry.resolve(config)


@pytest.fixture(scope="module", params=KINDS)
def parts(request, toy_directory):
  """(config, reader, source, task, params)."""
  config = resolved(toy_directory, request.param)
  reader = feature_reader.FeatureReader(config.data)
  source = grounding.make_source(config, reader)
  shapes = source.collate([], batch_size=1)
  facts = grounding.model_metadata(
    config,
    feature_width=shapes.features.shape[-1],
    query_length=shapes.query.shape[-2],
    query_width=shapes.query.shape[-1],
  )
  facts = json.loads(json.dumps(facts))
  task = grounding.make_task(facts, loss_config=config.loss)
  params = jax.jit(task.init)(jax.random.key(0))
  return config, reader, source, task, params


def test_a_step_along_the_gradient_lowers_the_loss(parts):
  _, _, source, task, params = parts
  batch = source.collate(
    [source.item(i, seed=0) for i in range(3)], batch_size=4
  )
  assert (batch.is_absent & batch.valid).any()
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


def test_one_encoding_answers_each_query_as_if_alone(parts):
  """However many are asked together, and as `predict` does in a batch."""
  _, reader, source, task, params = parts
  search = moment_retrieval.MomentSearch(task, queries_per_call=8)
  vectors = reader.texts
  video = next(iter(reader.features("train").values()))
  encoded = search.encode(params, video.features)
  rows = np.arange(11) % len(vectors.texts)
  many = search.answer(
    params,
    encoded,
    query=vectors.vectors[rows],
    query_mask=vectors.mask[rows],
  )
  assert many.saliency.shape == (11, len(video.features))
  for row in (0, 10):
    one = search.answer(
      params,
      encoded,
      query=vectors.vectors[rows[row : row + 1]],
      query_mask=vectors.mask[rows[row : row + 1]],
    )
    for alone, among in zip(one, many, strict=True):
      np.testing.assert_allclose(alone[0], among[row], rtol=1e-3, atol=1e-4)
  length = len(video.features)
  batch = source.collate([source.item(0, seed=0)], batch_size=1)
  padded = np.zeros_like(batch.features)
  padded[0, :length] = video.features
  output = jax.jit(task.predict)(
    params,
    batch._replace(
      features=padded,
      mask=(np.arange(padded.shape[1]) < length)[None],
      query=vectors.vectors[rows[None]],
      query_mask=vectors.mask[rows[None]],
    ),
  )
  np.testing.assert_allclose(
    output["absence_logits"][0], many.absence_logits, rtol=1e-3, atol=1e-4
  )


def test_videos_of_any_length(parts):
  """Longer than trained: whole for the pyramid, in windows for the map."""
  config, reader, _, task, params = parts
  search = moment_retrieval.MomentSearch(task)
  steps = np.random.default_rng(0).normal(size=(150, toy_features.WIDTH))
  encoded = search.encode(params, steps.astype(np.float32))
  window = config.data.max_length
  if task.takes_any_length:
    assert encoded.window_steps == 256 and len(encoded.starts) == 1
  else:
    starts = encoded.starts[encoded.valid]
    assert encoded.window_steps == window and starts[-1] == 150 - window
    assert np.all(np.diff(starts) <= window // 2)
  vectors = reader.texts
  found = search.answer(
    params, encoded, query=vectors.vectors[:3], query_mask=vectors.mask[:3]
  )
  assert found.saliency.shape == (3, 150)
  assert np.isfinite(found.absence_logits).all()
  centers = found.segments[found.mask].mean(axis=-1)
  assert centers.min() < 40 and centers.max() > 110
  assert (np.diff(found.scores, axis=-1) <= 1e-6).all()


class FixedSearch:
  """Stands for MomentSearch: the truth of every video, by its text rows."""

  def __init__(self, reader):
    split = reader.grounding_split("train")
    texts = list(reader.texts.texts)
    self._windows, self._lengths = {}, {}
    for video_id, video in reader.features("train").items():
      key = video.features.tobytes()
      self._windows[key] = {
        texts.index(q.text): video.grid.to_grid(np.array(q.windows[0]))
        for q in split.queries
        if q.video_id == video_id
      }
    self._vectors = reader.texts.vectors

  def encode(self, params, features):
    return features

  def answer(self, params, features, *, query, query_mask):
    known = self._windows[features.tobytes()]
    rows = [
      int(np.flatnonzero((self._vectors == one).all(axis=(1, 2)))[0])
      for one in query
    ]
    segments = np.array([[known.get(row, (0.0, 1.0))] for row in rows])
    absent = np.array([row not in known for row in rows])
    return moment_retrieval.Answers(
      segments=segments.astype(np.float32),
      scores=np.ones((len(rows), 1), np.float32),
      mask=np.ones((len(rows), 1), bool),
      absence_logits=np.where(absent, 2.0, -2.0),
      saliency=np.zeros((len(rows), len(features)), np.float32),
    )


def scored(config, reader):
  return evaluation.Evaluator(config, reader, FixedSearch(reader))


def test_the_truth_scores_one_and_is_calibrated(toy_directory, tmp_path):
  config = resolved(toy_directory)
  reader = feature_reader.FeatureReader(config.data)
  truth = scored(config, reader)
  absence = truth.calibrate(None, "train")
  assert absence["split"] == "train" and absence["num_swapped"] > 0
  rows, found = truth.rows(None, "train", absence=absence)
  values = {row["metric"]: row["value"] for row in rows}
  assert values["r1@0.7"] == values["absent_auroc"] == 1.0
  assert values["absent_f1"] == values["absent_precision"] == 1.0
  assert values["miou"] == pytest.approx(1.0, abs=1e-5)
  cards = {row["metric"]: row["card"] for row in rows}
  assert cards["absent_f1"]["thresholds"] == [absence["threshold"]]
  assert "swapped" in cards["absent_f1"]["protocol"]
  assert cards["r1@0.7"]["protocol"] == "motion_sprites"
  evaluation.write_predictions(found, tmp_path, absence=absence)
  document = json.loads((tmp_path / "predictions.json").read_text())
  assert len(document["queries"]) == len(found.answers)
  assert all(entry["absence"] < 0.5 for entry in document["queries"])

  ground_truth = {
    query.id: [list(w) for w in query.windows] for query in found.split.queries
  }
  (tmp_path / "truth.json").write_text(json.dumps(ground_truth))
  (report,) = score(
    tmp_path / "predictions.json",
    ground_truth_path=tmp_path / "truth.json",
    protocols=["charades_sta"],
  )
  assert report["metrics"]["r1@0.7"] == 1.0


def test_queries_of_a_skipped_video_count_as_missed(own_toy_directory):
  (own_toy_directory / "features" / "video_000.npz").unlink()
  path = own_toy_directory / "features" / feature_reader.EXTRACTION_FILE
  text = path.read_text()
  path.write_text(
    text.replace('"failed": []', '"failed": [{"id": "video_000"}]')
  )
  config = resolved(own_toy_directory)
  reader = feature_reader.FeatureReader(config.data)
  rows, found = scored(config, reader).rows(None, "train", absence=None)
  values = {row["metric"]: row["value"] for row in rows}
  assert "absent_f1" not in values  # without calibration no decision
  share = len(found.answers) / len(found.split.queries)
  assert share < 1 and values["r1@0.5"] == pytest.approx(share)


def test_the_highlights_protocol_rounds_to_whole_clips():
  query = queries.GroundingQuery(
    id="7", video_id="a", text="x", windows=((2.0, 6.0),)
  )
  answer = evaluation.Answer(
    query,
    np.array([[1.2, 5.6, 0.9], [8.4, 8.6, 0.5], [9.7, 20.0, 0.1]]),
    absence_logit=0.0,
    saliency=np.zeros(5),
    duration_sec=10.5,
  )
  np.testing.assert_allclose(
    evaluation.whole_clips(answer),
    [[2, 6, 0.9], [8, 10, 0.5], [8, 10, 0.1]],
  )


def test_absence_metrics_follow_their_definition():
  values = metrics.absence(
    np.array([0.9, 0.2, 0.6, 0.4]),
    is_absent=np.array([True, False, False, True]),
    threshold=0.5,
  )
  assert values["absent_auroc"] == 0.75
  assert values["absent_precision"] == values["absent_recall"] == 0.5


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"loss.absence_weight": -0.1}, "loss"),
    ({"protocol": "motion"}, "protocol: got 'motion'; choose"),
    ({"fusion.num_heads": 3}, r"fusion\.num_heads is 3.*pyramid\.width 16"),
    ({"pyramid.width": 0}, "pyramid"),
    ({"map.steps_per_clip": 5}, "not a multiple of"),
    ({"map.pooling": "mean"}, "pooling must be one of"),
    ({"detr.num_moments": 4}, "max_windows 5 is above"),
    ({"detr.width": 15}, "width must be even"),
    ({"start.imported": "head"}, "kind detr"),
  ],
)
def test_values_out_of_range(toy_directory, changes, message):
  with pytest.raises(config_lib.ConfigError, match=message):
    resolved(toy_directory, **changes)


def test_unknown_kinds_are_named(toy_directory):
  with pytest.raises(config_lib.ConfigError, match="kind: got 'cube'; choose"):
    resolved(toy_directory, kind="cube")
