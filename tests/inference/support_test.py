"""Predictions from a folder of examples, trimmed or with a segments.csv."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from clap_jax.data import features
from clap_jax.inference import model_directory, predict, support
from clap_jax.models import fewshot_matcher, heads, localizer, pyramid
from clap_jax.trainers import fewshot, grounding, localization
from tests.data import built_dataset
from tests.inference import toy_model

GRID = features.FeatureGrid(start_sec=0.0, stride_sec=1.0, clip_sec=2.0)


def write_clips(directory, counts, *, num_frames=24):
  for name, count in counts.items():
    (directory / name).mkdir(parents=True)
    for number in range(count):
      path = directory / name / f"{number}.mp4"
      path.write_bytes(
        built_dataset.encode_mp4(num_frames, seed=len(name) + number)
      )
  return directory


def make_matcher(encoder, **config):
  facts = {
    "max_length": toy_model.MAX_LENGTH,
    "length": "pad",
    "feature_width": encoder.feature_width,
    "pyramid": dataclasses.asdict(
      pyramid.PyramidConfig(width=16, num_levels=2, num_heads=2)
    ),
    "head": dataclasses.asdict(heads.HeadConfig()),
    "matcher": dataclasses.asdict(fewshot_matcher.MatcherConfig(**config)),
    "decode": dataclasses.asdict(
      localizer.DecodeConfig(num_kept=6, num_candidates=20, min_score=0.0)
    ),
    "encoder_parameters": encoder.fingerprint,
    "encoder_directory": str(encoder.directory),
    "stride_sec": toy_model.STRIDE_SEC,
  }
  task = fewshot.make_task(facts)
  params = jax.device_get(jax.jit(task.init)(jax.random.key(1)))
  return task, facts, params


@pytest.fixture(scope="module")
def video(tmp_path_factory):
  path = tmp_path_factory.mktemp("query") / "query.mp4"
  path.write_bytes(built_dataset.encode_mp4(64, seed=9))
  return path


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
  return write_clips(
    tmp_path_factory.mktemp("support") / "clips", {"jump": 2, "run": 1}
  )


def bare_model(encoder, matcher=None) -> model_directory.Model:
  return model_directory.Model(
    encoder=encoder,
    stride_sec=toy_model.STRIDE_SEC,
    localizer=None,
    grounder=None,
    matcher=matcher,
  )


@pytest.mark.parametrize("method", ["nearest", "prototypes", "text"])
def test_moments_like_those_of_the_examples(encoder, clips, video, method):
  matcher = None
  if method != "nearest":
    matcher = make_matcher(encoder, use_text=method == "text")
  document = predict.predict(
    bare_model(encoder, matcher), [video], support_dir=clips, max_predictions=4
  )
  assert document["failed"] == []
  assert document["support"] == {
    "method": {
      "nearest": "nearest_prototype",
      "prototypes": "prototypes",
      "text": "text_assisted",
    }[method],
    "shots": {"jump": 2, "run": 1},
    "skipped": [],
  }
  (found,) = document["videos"]
  assert found["absent"] is None
  assert 1 <= len(found["predictions"]) <= 4
  scores = [entry["score"] for entry in found["predictions"]]
  assert scores == sorted(scores, reverse=True)
  for entry in found["predictions"]:
    assert set(entry) == {"start_sec", "end_sec", "score", "label"}
    assert entry["label"] in ("jump", "run")
    assert 0 <= entry["start_sec"] <= entry["end_sec"] <= found["duration_sec"]
  json.dumps(document)


def test_untrimmed_examples_with_their_segments(encoder, video, tmp_path):
  (tmp_path / "a.mp4").write_bytes(built_dataset.encode_mp4(96, seed=3))
  (tmp_path / "segments.csv").write_text(
    "video,start,end,label,comment\n"
    "a.mp4,1.0,4.0,jump,\na.mp4,8,10.5,jump,x\na.mp4,4.0,6.0,run,\n"
  )
  listed = support.read_folder(tmp_path)
  assert [(v.label, v.segments) for v in listed] == [
    ("jump", ((1.0, 4.0), (8.0, 10.5))),
    ("run", ((4.0, 6.0),)),
  ]
  examples = support.SupportSet(encoder, tmp_path, stride_sec=1.0, matcher=None)
  (shot,) = examples.shots["jump"]
  # 12 s: 11 features, whose middles lie at 1, 2, ..., 11 s.
  assert shot.mask.sum() == 11
  assert np.flatnonzero(shot.action).tolist() == [0, 1, 2, 7, 8, 9]
  document = predict.predict(bare_model(encoder), [video], support_dir=tmp_path)
  assert document["support"]["shots"] == {"jump": 1, "run": 1}


def test_long_examples_become_one_shot_around_each_segment():
  video = features.VideoFeatures(np.arange(40, dtype=np.float32)[:, None], GRID)
  shots = support.make_shots(video, ((5.0, 9.0), (30.0, 34.0)), max_length=16)
  assert len(shots) == 2
  for shot, start in zip(shots, (0, 23), strict=True):
    np.testing.assert_array_equal(shot.features[:, 0], np.arange(16) + start)
  assert np.flatnonzero(shots[0].action).tolist() == [4, 5, 6, 7]
  whole = support.make_shots(video, None, max_length=16)
  assert [shot.mask.sum() for shot in whole] == [16, 16, 8]
  assert all((shot.action == shot.mask).all() for shot in whole)


@pytest.mark.parametrize(
  ("part", "file"),
  [
    ("matcher", fewshot.MODEL_FILE),
    ("localizer", localization.MODEL_FILE),
    ("grounder", grounding.MODEL_FILE),
  ],
)
def test_the_workdir_of_a_head_is_a_model(
  encoder, tmp_path, monkeypatch, part, file
):
  """The head must belong to the encoder that is loaded beside it."""
  head = make_matcher(encoder)
  monkeypatch.setattr(model_directory, "_load_head", lambda *_: head)
  monkeypatch.setattr(
    model_directory.encoder_lib, "load_encoder", lambda directory: encoder
  )
  (tmp_path / file).write_text("{}")
  model = model_directory.load_model(tmp_path)
  assert getattr(model, part) is head
  assert [model.matcher, model.localizer, model.grounder].count(None) == 2
  head[1]["encoder_parameters"] = "another"
  with pytest.raises(ValueError, match="with the parameters another"):
    model_directory.load_model(tmp_path)
  head[1]["encoder_directory"] = None
  with pytest.raises(ValueError, match=f"{file} does not name the encoder"):
    model_directory.load_model(tmp_path)


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("video,start,end\n", "lacks label"),
    ("video,start,end,label\n", "contains no example"),
    ("video,start,end,label\na.mp4,x,2,jump\n", "line 2: not a number"),
    ("video,start,end,label\na.mp4,3,2,jump\n", "0 <= start < end"),
    ("video,start,end,label\na.mp4,0,nan,jump\n", "line 2: .*finite"),
    ("video,start,end,label\na.mp4,0,2,\n", "a label"),
    ("video,start,end,label\n../a.mp4,0,2,jump\n", "outside"),
    ("video,start,end,label\n/etc/passwd,0,2,jump\n", "outside"),
    ("video,start,end,label\nb.mp4,0,2,jump\n", "is missing"),
  ],
)
def test_malformed_tables(tmp_path, text, message):
  (tmp_path / "segments.csv").write_text(text)
  with pytest.raises((ValueError, FileNotFoundError), match=message):
    support.read_folder(tmp_path)


def test_tables_of_spreadsheets(tmp_path):
  (tmp_path / "a.mp4").touch()
  text = "sep=;\r\nFile; Begin ;Stop;Class\r\na.mp4;0:01,5;4,0;jump\r\n;;;\r\n"
  (tmp_path / "segments.csv").write_bytes(text.encode("utf-16"))
  (video,) = support.read_folder(tmp_path)
  assert (video.label, video.segments) == ("jump", ((1.5, 4.0),))


def test_an_example_that_does_not_decode_is_skipped(encoder, tmp_path, video):
  for name in ("jump", "run"):
    (tmp_path / name).mkdir()
    (tmp_path / name / "a.mp4").write_bytes(video.read_bytes())
  broken = tmp_path / "jump" / "broken.mp4"
  broken.write_bytes(b"no video")
  model = bare_model(encoder)
  document = predict.predict(model, [video], support_dir=tmp_path)
  assert document["support"]["shots"] == {"jump": 1, "run": 1}
  (skipped,) = document["support"]["skipped"]
  assert skipped["video"] == str(broken)
  assert document["videos"][0]["predictions"]
  (tmp_path / "jump" / "a.mp4").unlink()
  with pytest.raises(ValueError, match=r"jump .*broken\.mp4"):
    predict.predict(model, [video], support_dir=tmp_path)


def test_malformed_folders(encoder, tmp_path, video):
  with pytest.raises(FileNotFoundError, match="is not a folder"):
    support.read_folder(tmp_path / "nowhere")
  with pytest.raises(ValueError, match=r"CLASS/\*\.mp4"):
    support.read_folder(tmp_path)
  (tmp_path / "jump").mkdir()
  with pytest.raises(ValueError, match="jump contains no video"):
    support.read_folder(tmp_path)
  (tmp_path / "jump" / "broken.mp4").write_bytes(b"no video")
  with pytest.raises(ValueError, match=r"broken\.mp4"):
    predict.predict(bare_model(encoder), [video], support_dir=tmp_path)
