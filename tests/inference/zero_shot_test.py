"""Moments of an encoder alone: laws of the curves, then whole videos."""

import dataclasses
import itertools
import json

import numpy as np
import pytest

from clap_jax import main
from clap_jax.data import class_texts, clips
from clap_jax.inference import (
  encoder as encoder_lib,
)
from clap_jax.inference import model_directory, predict, zero_shot
from clap_jax.storage import output
from clap_jax.training import weights
from tests.data import built_dataset
from tests.inference import toy_model


def planted(start, stop, *, length=120, noise=0.05, seed=0):
  """A curve that is higher by 1 over [start, stop)."""
  curve = noise * np.random.default_rng(seed).normal(size=length)
  curve[start:stop] += 1.0
  return curve


def iou(first, second):
  overlap = min(first[1], second[1]) - max(first[0], second[0])
  return max(overlap, 0) / (max(first[1], second[1]) - min(first[0], second[0]))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
  ("start", "stop"), [(30, 34), (0, 9), (101, 120), (40, 80), (17, 20)]
)
def test_a_planted_moment_is_found_with_its_borders(start, stop, seed):
  found = zero_shot.find_moments(planted(start, stop, seed=seed))
  assert np.abs(found.segments[0] - (start - 0.5, stop - 0.5)).max() <= 1
  assert np.abs(found.runs[0] - (start, stop)).max() <= 1
  assert found.scores[0] > 2 * found.scores[1:].max(initial=0.0)


def test_two_planted_moments_come_first():
  curve = np.maximum(planted(10, 25), 0.8 * planted(70, 90))
  found = zero_shot.find_moments(curve)
  assert {tuple(run) for run in found.runs[:2]} == {(10, 25), (70, 90)}


def test_a_moment_with_a_gap_is_one():
  curve = planted(40, 60)
  curve[49] = curve[53] = 0.0
  assert iou(zero_shot.find_moments(curve).runs[0], (40, 60)) > 0.9


def test_a_short_peak_does_not_hide_a_long_moment():
  curve = planted(40, 60, noise=0.2, seed=4)
  curve[100] = 1.2
  assert iou(zero_shot.find_moments(curve).runs[0], (40, 60)) > 0.9


@pytest.mark.parametrize(("scale", "offset"), [(7.0, 0.0), (0.03, -0.2)])
def test_scale_and_offset_of_a_curve_change_nothing(scale, offset):
  curve = planted(50, 70, noise=0.3)
  first = zero_shot.find_moments(curve)
  second = zero_shot.find_moments(scale * curve + offset)
  np.testing.assert_array_equal(first.runs, second.runs)
  np.testing.assert_allclose(first.scores, second.scores, rtol=1e-4)


@pytest.mark.parametrize(
  "curve",
  [
    np.full(50, 0.3),
    np.zeros(1),
    np.full(50, -0.1) + 1e-6 * np.arange(50),
    np.array([0.5]),
  ],
)
def test_a_flat_curve_has_no_moment(curve):
  found = zero_shot.find_moments(curve)
  assert found.segments.shape == (0, 2) and not len(found.scores)


def test_moments_are_ordered_and_stay_in_the_video():
  rng = np.random.default_rng(0)
  for length in (2, 3, 5, 17, 400):
    found = zero_shot.find_moments(rng.normal(size=length))
    assert (np.diff(found.scores) <= 1e-6).all()
    assert ((found.scores > 0) & (found.scores <= 1)).all()
    assert (found.runs[:, 0] < found.runs[:, 1]).all()
    assert found.runs.min() >= 0 and found.runs.max() <= length


def naive_runs(curve, level):
  above = [value >= level for value in curve]
  runs, place = set(), 0
  for is_above, group in itertools.groupby(above):
    length = len(list(group))
    if is_above:
      runs.add((place, place + length))
    place += length
  return runs


def test_proposals_are_the_runs_above_levels():
  curve = np.random.default_rng(1).uniform(size=15)
  found = {tuple(map(int, run)) for run in zero_shot.proposals(curve)}
  expected = set()
  for scale in (1, 2):  # 4 snippets would be more than a quarter
    smooth = zero_shot.smoothed(curve, scale)
    low, high = smooth.min(), smooth.max()
    for level in np.arange(1, 10) / 10:
      expected |= naive_runs(smooth, low + level * (high - low))
  assert found == expected


@pytest.mark.parametrize("scale", [1, 2, 4, 8])
def test_smoothing_is_a_mean_over_neighbours(scale):
  curve = np.random.default_rng(2).normal(size=30)
  expected = [
    curve[max(i - scale // 2, 0) : i + (scale + 1) // 2].mean()
    for i in range(30)
  ]
  np.testing.assert_allclose(zero_shot.smoothed(curve, scale), expected)


def test_scores_are_contrasts_with_the_surroundings():
  curve = np.random.default_rng(3).normal(size=12)
  runs = np.array([[0, 3], [4, 6], [5, 12], [0, 12]])
  expected = []
  for start, stop in runs:
    size = stop - start
    around = [
      *curve[max(start - size, 0) : start],
      *curve[stop : stop + size],
    ]
    contrast = curve[start:stop].mean() - np.mean(around) if around else 0.0
    expected.append(contrast * size / (size + 2))
  np.testing.assert_allclose(zero_shot.proposal_scores(curve, runs), expected)


WIDTH = 16
AXES = np.eye(WIDTH, dtype=np.float32)


def towards(axis, weight):
  """Unit vectors with the cosine `weight` (t,) to an axis, else to the last."""
  return (
    weight[:, None] * AXES[axis]
    + np.sqrt(1 - weight[:, None] ** 2) * AXES[WIDTH - 1]
  ).astype(np.float32)


def make_texts(*axes, background=6, scale=10.0):
  return zero_shot.Texts(
    AXES[list(axes)], AXES[[background]], logit_scale=scale
  )


def test_queries_do_not_influence_each_other():
  rng = np.random.default_rng(0)
  snippets = class_texts.unit(rng.normal(size=(90, WIDTH)).astype(np.float32))
  together = zero_shot.find(snippets, make_texts(0, 1, 2))
  for row, axis in enumerate((0, 1, 2)):
    alone = zero_shot.find(snippets, make_texts(axis))
    np.testing.assert_array_equal(
      alone.moments[0].runs, together.moments[row].runs
    )
    assert alone.absence_logits[0] == pytest.approx(
      together.absence_logits[row], abs=1e-5
    )


def test_overlapping_queries_both_find_their_moment():
  steps = np.arange(60)
  first = np.where((steps >= 10) & (steps < 30), 0.6, 0.1)
  second = np.where((steps >= 20) & (steps < 45), 0.6, 0.1)
  rest = np.sqrt(1 - first**2 - second**2)
  snippets = (
    first[:, None] * AXES[0]
    + second[:, None] * AXES[1]
    + rest[:, None] * AXES[WIDTH - 1]
  )
  found = zero_shot.find(snippets.astype(np.float32), make_texts(0, 1)).moments
  assert tuple(found[0].runs[0]) == (10, 30)
  assert tuple(found[1].runs[0]) == (20, 45)


def test_absence_compares_with_the_background():
  weight = planted(20, 30, length=60, noise=0.0) * 0.5 + 0.2
  snippets = towards(0, weight)
  present = zero_shot.find(snippets, make_texts(0))
  assert present.absence_logits[0] == pytest.approx(-10.0 * 0.7, abs=1e-4)
  absent = zero_shot.find(snippets, make_texts(1, background=0))
  assert absent.absence_logits[0] > 0
  probability = zero_shot.absence_probability(np.array([-2e3, 0.0, 3.0, 2e3]))
  np.testing.assert_allclose(
    probability, [0.0, 0.5, 1 / (1 + np.exp(-3.0)), 1.0], atol=1e-9
  )


def test_the_class_that_fits_best_scores_best():
  snippets = towards(0, planted(20, 30, length=60, noise=0.0) * 0.5 + 0.2)
  snippets += 0.01 * snippets[::-1, ::-1]  # the other curve is not flat
  texts = make_texts(1, 0)
  shares = zero_shot.class_shares(snippets, texts)
  cosines = np.concatenate([AXES[[1, 0]], AXES[[6]]]) @ snippets.T
  expected = np.exp(10 * cosines) / np.exp(10 * cosines).sum(axis=0)
  np.testing.assert_allclose(shares, expected[:2], rtol=1e-4)
  other, own = zero_shot.find_classes(snippets, texts)
  assert tuple(own.runs[0]) == (20, 30)
  assert own.scores[0] > 2 * other.scores.max(initial=0.0)
  assert (np.diff(own.scores) <= 0).all()


def test_texts_are_means_over_prompts(encoder):
  query = "the square spins"
  texts = zero_shot.query_texts(encoder, [query, "it fades"])
  vectors = encoder.embed_texts([p.format(query) for p in clips.LABEL_PROMPTS])
  np.testing.assert_allclose(
    texts.vectors[0], class_texts.unit(vectors.mean(axis=0)), atol=1e-5
  )
  assert texts.background.shape[0] == len(zero_shot.BACKGROUND_TEXTS)
  labels = zero_shot.label_texts(encoder, built_dataset.LABEL_NAMES)
  known = encoder.class_texts(built_dataset.LABEL_NAMES)
  np.testing.assert_allclose(labels.vectors, known.vectors, atol=1e-5)
  assert labels.logit_scale == known.logit_scale


# Whole videos.


@pytest.fixture(scope="module")
def imported(tmp_path_factory, encoder):
  return toy_model.write_imported(tmp_path_factory.mktemp("imported"), encoder)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
  """12 s: 21 snippets, every half second."""
  path = tmp_path_factory.mktemp("videos") / "square.mp4"
  path.write_bytes(built_dataset.encode_mp4(96))
  return path


def test_imported_towers_are_an_encoder(imported, encoder):
  loaded = encoder_lib.load_encoder(imported)
  assert loaded.fingerprint == encoder.fingerprint
  assert loaded.clip == encoder.clip
  assert loaded.name == "clip"
  model = model_directory.load_model(imported)
  assert model.is_encoder_alone and model.takes_queries


def test_imported_towers_that_state_no_clip(imported, tmp_path, encoder):
  arrays, facts = weights.read(imported)
  facts.pop("clip")
  weights.write(tmp_path / "other", arrays, facts)
  (tmp_path / "other" / "tokenizer.json").write_bytes(encoder.tokenizer.model)
  loaded = encoder_lib.load_encoder(tmp_path / "other")
  assert loaded.clip == dataclasses.replace(
    encoder.clip, clip_sec=2.0, resize="crop"
  )


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda facts: facts["settings"].pop("text_tower"), "text_tower"),
    (lambda facts: facts["settings"].pop("projection_width"), "projection"),
    (lambda facts: facts["settings"].update(vocab_size=17), "parameters"),
    (lambda facts: facts["settings"].update(vocab_size="17"), "manifest"),
    (lambda facts: facts["settings"].update(image_size=1 << 40), "manifest"),
    (lambda facts: facts["settings"].pop("num_frames"), "manifest"),
    (lambda facts: facts["clip"].update(clip_sec=-1.0), "manifest"),
    (lambda facts: facts.update(settings=None), "text_tower"),
    (lambda facts: facts.update(clip=[1]), "manifest"),
    (lambda facts: facts.update(training=[1]), "manifest"),
    (lambda facts: facts.update(source={}), "manifest"),
    (lambda facts: facts.update(seed="0"), "manifest"),
  ],
)
def test_weights_that_are_not_encoder(
  imported, tmp_path, encoder, change, message
):
  arrays, facts = weights.read(imported)
  change(facts)
  weights.write(tmp_path / "other", arrays, facts)
  with pytest.raises(ValueError, match=message):
    model_directory.load_model(tmp_path / "other")


def test_imported_weights_without_a_tokenizer(imported, tmp_path):
  arrays, facts = weights.read(imported)
  weights.write(tmp_path / "other", arrays, facts)
  with pytest.raises(ValueError, match="--tokenizer"):
    model_directory.load_model(tmp_path / "other")


def test_a_missing_parameter_raises(imported, tmp_path):
  arrays, facts = weights.read(imported)
  arrays.pop("params/text_projection/kernel")
  weights.write(tmp_path / "other", arrays, facts)
  with pytest.raises(ValueError, match="text_projection"):
    model_directory.load_model(tmp_path / "other")


def test_predict_with_an_encoder_alone(imported, video, tmp_path):
  labels, out = tmp_path / "labels.txt", tmp_path / "out.json"
  labels.write_text("slides\nspins\n")
  support = tmp_path / "support"
  for name in ("slides", "spins"):
    (support / name).mkdir(parents=True)
    (support / name / "a.mp4").write_bytes(built_dataset.encode_mp4(24))
  code = main.main(
    [
      "predict",
      str(video),
      "--model",
      str(imported),
      "--json",
      str(out),
      "--query",
      "the square spins",
      "--query",
      "nobody knows",
      "--labels",
      str(labels),
      "--support",
      str(support),
    ]
  )
  assert code == 0
  document = json.loads(out.read_text())
  (found,) = document["videos"]
  assert found["method"] == "zero-shot similarity"
  assert document["support"]["method"] == "nearest_prototype"
  assert {"label", "query"} <= {k for e in found["predictions"] for k in e}
  for entry in found["predictions"]:
    assert 0 <= entry["start_sec"] < entry["end_sec"] <= found["duration_sec"]
    assert 0 <= entry["score"] <= 1
  assert isinstance(found["absent"], bool)
  assert set(found["absence"]) == {"the square spins", "nobody knows"}
  for absence in found["absence"].values():
    assert absence["absent"] is (absence["probability"] > 0.5)


def test_a_video_is_answered_by_its_own_similarity(imported, video):
  """The entry is what the curve of the encoder's vectors has."""
  from clap_jax.inference import streaming  # noqa: PLC0415

  model = model_directory.load_model(imported)
  query = "the square fades"
  (found,) = predict.predict(model, [video], queries=[query])["videos"]
  encoded, _ = streaming.encode_video(
    model.encoder, video, stride_sec=model.stride_sec
  )
  snippets = model.encoder.project(encoded.features)
  texts = zero_shot.query_texts(model.encoder, [query])
  expected = zero_shot.find_moments(snippets @ texts.vectors[0])
  middle_sec = model.encoder.clip.clip_sec / 2
  assert len(found["predictions"]) == min(20, len(expected.scores))
  for entry, segment, score in zip(
    found["predictions"], expected.segments, expected.scores, strict=False
  ):
    assert entry["score"] == pytest.approx(score)
    assert entry["start_sec"] == pytest.approx(
      max(segment[0] * model.stride_sec + middle_sec, 0.0)
    )


@pytest.mark.parametrize(
  ("request_", "message"),
  [
    ({}, "--query"),
    ({"labels": []}, "empty"),
    ({"labels": [" "]}, "empty"),
    ({"queries": [""]}, "empty"),
  ],
)
def test_requests_that_an_encoder_alone_refuses(
  imported, video, request_, message
):
  model = model_directory.load_model(imported)
  with pytest.raises(ValueError, match=message):
    predict.predict(model, [video], **request_)


@pytest.mark.parametrize(
  ("training", "is_refused"),
  [
    ({}, False),
    ({"loss": {"contrastive_weight": 0.5}}, False),
    ({"loss": {"contrastive_weight": 0.0}}, True),
    (
      {
        "loss": {"contrastive_weight": 0.0},
        "start": {"imported": "weights/clip"},
      },
      False,
    ),
  ],
)
def test_towers_that_were_never_trained_together(
  encoder, video, training, is_refused
):
  model = model_directory.Model(
    dataclasses.replace(encoder, training=training), 0.5, None, None
  )
  if not is_refused:
    zero_shot.check_aligned(model.encoder)
    return
  with pytest.raises(ValueError, match="contrastive_weight"):
    predict.predict(model, [video], queries=["it spins"])


def test_a_pre_training_workdir_is_a_model(tmp_path, monkeypatch, encoder):
  output.write_text(tmp_path / "encoder.json", "{}")
  monkeypatch.setattr(encoder_lib, "load_encoder", lambda _: encoder)
  model = model_directory.load_model(tmp_path)
  assert model.is_encoder_alone
  assert model.stride_sec == model_directory.DEFAULT_STRIDE_SEC


def test_a_missing_head_error_names_the_encoder(encoder, video):
  model = dataclasses.replace(toy_model.make_model(encoder), grounder=None)
  with pytest.raises(ValueError, match="zero-shot"):
    predict.predict(model, [video], queries=["it spins"])


def test_an_hour_is_answered_from_its_features(imported, tmp_path):
  from clap_jax.data import features  # noqa: PLC0415

  model = model_directory.load_model(imported)
  rng = np.random.default_rng(0)
  width = model.encoder.feature_width
  hour = rng.normal(size=(7200, width)).astype(np.float32)
  grid = features.FeatureGrid(start_sec=0.0, stride_sec=0.5, clip_sec=2.0)
  path = features.save_features(
    tmp_path, "hour", features.VideoFeatures(hour, grid)
  )
  (found,) = predict.predict(model, [path], queries=["it spins"])["videos"]
  assert found["method"] == zero_shot.METHOD
  assert len(found["predictions"]) == 20
