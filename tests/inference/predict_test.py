"""Tests predictions for files: form, times, and invalid requests."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from clap_jax.data import features
from clap_jax.inference import encoder as encoder_lib
from clap_jax.inference import model_directory, predict, sequences
from clap_jax.types import Detections
from tests.data import built_dataset
from tests.inference import toy_model

LABELS = built_dataset.LABEL_NAMES


@pytest.fixture(scope="module")
def model(encoder):
  return toy_model.make_model(encoder)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
  """12 s: 11 snippets."""
  path = tmp_path_factory.mktemp("videos") / "a square.mp4"
  path.write_bytes(built_dataset.encode_mp4(96))
  return path


@pytest.fixture(scope="module")
def long_video(tmp_path_factory):
  """40 s: 39 snippets, more than the heads were trained on."""
  path = tmp_path_factory.mktemp("videos") / "long.mp4"
  path.write_bytes(built_dataset.encode_mp4(320, seed=1))
  return path


def params_of(model):
  return model.grounder[2]


def check_entries(entries, duration_sec, key):
  for entry in entries:
    assert set(entry) == {"start_sec", "end_sec", "score", key}
    assert 0 <= entry["start_sec"] <= entry["end_sec"] <= duration_sec
    assert 0 <= entry["score"] <= 1
  scores = [entry["score"] for entry in entries]
  assert scores == sorted(scores, reverse=True)


def test_by_class(model, video):
  document = predict.predict(model, [video])
  json.dumps(document, allow_nan=False)
  assert set(document) == {"videos", "failed"}
  (found,) = document["videos"]
  assert set(found) == {"video", "duration_sec", "predictions", "absent"}
  assert found["video"] == str(video)
  assert found["duration_sec"] == pytest.approx(12.0)
  assert found["absent"] is None
  assert found["predictions"]
  assert {entry["label"] for entry in found["predictions"]} <= set(LABELS)
  check_entries(found["predictions"], 12.0, "label")


def test_labels_choose(model, video):
  everything = predict.predict(model, [video])["videos"][0]["predictions"]
  chosen = predict.predict(model, [video], labels=[LABELS[1]])
  expected = [entry for entry in everything if entry["label"] == LABELS[1]]
  assert chosen["videos"][0]["predictions"] == expected
  few = predict.predict(model, [video], max_predictions=2)
  assert few["videos"][0]["predictions"] == everything[:2]


def test_by_text(model, video):
  queries = ["the square spins", "nothing moves", "the square spins"]
  document = predict.predict(model, [video], queries=queries, max_predictions=2)
  (found,) = document["videos"]
  assert set(found["absence"]) == set(queries)
  for entry in found["absence"].values():  # as calibrated, see toy_model
    assert entry["absent"] is (entry["probability"] >= 0.4)
  assert found["absent"] is all(e["absent"] for e in found["absence"].values())
  _, facts, _ = model.grounder
  uncalibrated = dataclasses.replace(
    model,
    grounder=(model.grounder[0], facts | {"absence": None}, params_of(model)),
  )
  (silent,) = predict.predict(uncalibrated, [video], queries=queries)["videos"]
  assert silent["absent"] is silent["absence"] is None
  for query in set(queries):
    mine = [e for e in found["predictions"] if e["query"] == query]
    assert len(mine) == 2  # asked twice, answered once
    check_entries(mine, 12.0, "query")
  alone = predict.predict(model, [video], queries=queries[:1])
  mine = [e for e in found["predictions"] if e["query"] == queries[0]]
  for together, by_itself in zip(
    mine, alone["videos"][0]["predictions"], strict=False
  ):
    assert together["score"] == pytest.approx(by_itself["score"], rel=1e-4)


def test_both_at_once(model, video):
  document = predict.predict(
    model, [video], labels=LABELS, queries=["the square fades"]
  )
  entries = document["videos"][0]["predictions"]
  assert {"label", "query"} <= {key for entry in entries for key in entry}


def test_a_broken_video_among_good_ones(model, video, tmp_path):
  broken = tmp_path / "broken.mp4"
  broken.write_bytes(video.read_bytes()[:700])
  text = tmp_path / "notes.mp4"
  text.write_text("no video")
  missing = tmp_path / "missing.mp4"
  seen = []
  document = predict.predict(
    model, [broken, video, text, missing, tmp_path], on_video=seen.append
  )
  assert [entry["video"] for entry in document["videos"]] == [str(video)]
  assert [entry["video"] for entry in document["failed"]] == [
    str(path) for path in (broken, text, missing, tmp_path)
  ]
  assert all(entry["reason"] for entry in document["failed"])
  assert len(seen) == 5


def test_a_video_longer_than_the_heads_were_trained_on(model, long_video):
  document = predict.predict(
    model, [long_video], labels=LABELS, queries=["the square slides"]
  )
  (found,) = document["videos"]
  assert found["duration_sec"] == pytest.approx(40.0)
  assert found["predictions"]
  for entry in found["predictions"]:
    assert 0 <= entry["start_sec"] <= entry["end_sec"] <= 40.0


def test_a_video_shorter_than_a_clip(model, tmp_path):
  path = tmp_path / "short.mp4"
  path.write_bytes(built_dataset.encode_mp4(4))
  document = predict.predict(model, [path])
  assert not document["failed"]
  assert document["videos"][0]["duration_sec"] == pytest.approx(0.5)


@pytest.mark.parametrize("length", [1, 15, 16, 17, 33])
def test_padding(length):
  sequence = np.arange(length * 2, dtype=np.float32).reshape(length, 2) + 1
  padded, mask = sequences.padded_to(sequence, 16)
  assert padded.shape[1] in (16, 32, 64)
  assert padded.shape[1] < 2 * max(length, 9)
  assert mask.sum() == length
  np.testing.assert_array_equal(padded[0][mask[0]], sequence)
  assert not padded[0][~mask[0]].any()


class GridTask:
  """Finds two segments that are known on the grid."""

  takes_any_length = True
  whole_steps = 0

  def padded_length(self, num_steps):
    return num_steps

  def detect(self, params, features, mask):
    del params, features, mask
    return Detections(
      segments=np.float32([[[1.0, 4.0], [-9.0, 99.0], [0.0, 1.0]]]),
      scores=np.float32([[0.9, 0.5, 0.4]]),
      labels=np.int32([[2, 0, 1]]),
      mask=np.array([[True, True, False]]),
    )


def test_grid_units_become_seconds_within_the_video(model, video):
  # Clips of 2 s every 1 s: coordinate g is the time g * 1 s + 1 s.
  task = GridTask()
  known = dataclasses.replace(
    model, localizer=(task, model.localizer[1], model.localizer[2])
  )
  (found,) = predict.predict(known, [video])["videos"]
  assert [
    (e["start_sec"], e["end_sec"], e["label"]) for e in found["predictions"]
  ] == [(2.0, 5.0, LABELS[2]), (0.0, 12.0, LABELS[0])]


def test_a_second_video_compiles_nothing(model, video):
  compiled = []
  jax.monitoring.register_event_duration_secs_listener(
    lambda name, *_, **__: (
      compiled.append(name)
      if name.endswith("backend_compile_duration")
      else None
    )
  )
  request = {"labels": LABELS, "queries": ["the square spins"]}
  predict.predict(model, [video], **request)
  compiled.clear()
  predict.predict(model, [video, video], **request)
  assert not compiled


@pytest.mark.parametrize(
  ("request_", "message"),
  [
    ({"labels": ["jumps", "slides"]}, r"\['jumps'\].*slides, spins, fades"),
    ({"labels": []}, "empty.*slides, spins, fades"),
    ({"queries": ["  "]}, "query is empty"),
    ({"max_predictions": 0}, "max_predictions is "),
    ({"max_predictions": -3}, "max_predictions is "),
  ],
)
def test_requests_that_are_refused(model, video, request_, message):
  with pytest.raises(ValueError, match=message):
    predict.predict(model, [video], **request_)


def test_a_model_without_a_head(model, video):
  without = dataclasses.replace(model, localizer=None)
  with pytest.raises(ValueError, match="no localization head"):
    predict.predict(without, [video])
  assert predict.predict(without, [video], queries=["it spins"])["videos"]
  without = dataclasses.replace(model, grounder=None)
  with pytest.raises(ValueError, match="no grounding head"):
    predict.predict(without, [video], queries=["it spins"])


def test_directories_that_hold_no_model(tmp_path):
  with pytest.raises(FileNotFoundError, match=r"no model\.json"):
    model_directory.load_model(tmp_path)
  (tmp_path / "model.json").write_text('{"stride_sec": 0.5}')
  with pytest.raises(ValueError, match="encoder"):
    model_directory.load_model(tmp_path)
  model_directory.write_model(
    tmp_path,
    encoder="pretrain",
    stride_sec=0.5,
    localization_dir="localization",
    grounding_dir=None,
  )
  assert json.loads((tmp_path / "model.json").read_text()) == {
    "format": 1,
    "encoder": "pretrain",
    "stride_sec": 0.5,
    "localization": "localization",
    "grounding": None,
  }
  with pytest.raises(FileNotFoundError, match="no pre-trained encoder"):
    model_directory.load_model(tmp_path)
  with pytest.raises(FileNotFoundError, match=r"encoder\.json"):
    encoder_lib.load_encoder(tmp_path / "nowhere")


def test_clips_are_encoded_alike_in_any_batch(encoder):
  frames = np.random.default_rng(0).integers(
    0, 256, (5, 4, 16, 16, 3), np.uint8
  )
  whole = encoder.clip_features(frames, 8)
  parts = encoder.clip_features(frames, 2)
  assert whole.shape == (5, encoder.feature_width)
  np.testing.assert_allclose(whole, parts, rtol=1e-5, atol=1e-6)
  assert encoder.clip_features(frames[:0], 2).shape == (0, 16)


def test_grids_agree(encoder, video):
  """`clap predict` makes the sequence that `clap extract` would."""
  from clap_jax.inference import extract  # noqa: PLC0415

  clips = extract.stream_clips(encoder, video, stride_sec=1.0)
  starts = [clip.start_sec for clip in clips]
  grid = features.FeatureGrid(start_sec=0.0, stride_sec=1.0, clip_sec=2.0)
  assert starts == [float(i) for i in range(grid.num_features(12.0))]
