"""Windows of a long video: nothing lost, nothing twice, nothing piled up."""

import dataclasses

import numpy as np
import pytest

from clap_jax.inference import (
  extract,
  predict,
  sequences,
  streaming,
  video_predictor,
)
from tests.data import built_dataset
from tests.inference import toy_model

LABELS = built_dataset.LABEL_NAMES


@pytest.mark.parametrize("num_steps", [1, 7, 8, 9, 12, 13, 30])
def test_every_step_is_owned_once(num_steps, monkeypatch):
  monkeypatch.setattr(sequences, "_MIN_LONG_SNIPPETS", 8)
  windows = sequences.long_windows(num_steps, max_length=4)
  assert [w.start for w in windows] == [4 * i for i in range(len(windows))]
  assert windows[-1].stop == num_steps
  assert all(w.stop - w.start == 8 for w in windows[:-1])
  assert len(windows) == 1 or 4 < num_steps - windows[-1].start <= 8
  for step in np.arange(-2, num_steps + 2, 0.5):
    owners = [w for w in windows if w.owned[0] <= step < w.owned[1]]
    assert len(owners) == 1
  # A moment of up to a quarter of a window lies in the one that owns it.
  for start in np.arange(0, max(num_steps - 2, 0)):
    (owner,) = [w for w in windows if w.owned[0] <= start + 1 < w.owned[1]]
    assert owner.start <= start
    assert start + 2 <= owner.stop


@pytest.mark.parametrize(
  ("max_length", "size"), [(64, 2048), (100, 3200), (2304, 2304), (17, 2176)]
)
def test_a_long_window_is_a_double_of_the_trained_length(max_length, size):
  (one,) = sequences.long_windows(size, max_length=max_length)
  assert one.stop == size
  assert len(sequences.long_windows(size + 1, max_length=max_length)) == 2


@pytest.fixture(scope="module")
def long_video(tmp_path_factory):
  path = tmp_path_factory.mktemp("videos") / "long.mp4"
  path.write_bytes(built_dataset.encode_mp4(560, seed=1))
  return path  # 70 s


def test_features_are_those_of_all_clips(encoder, long_video):
  whole = extract.video_features(
    encoder, extract.stream_clips(encoder, long_video, stride_sec=1.0)
  )
  told = []
  encoded, _ = streaming.encode_video(
    encoder, long_video, stride_sec=1.0, on_clip=told.append
  )
  np.testing.assert_allclose(encoded.features, whole, rtol=1e-5, atol=1e-6)
  assert told == [float(i) for i in range(len(whole))]


def test_windows_find_the_same_as_one_pass(encoder, long_video, monkeypatch):
  model = toy_model.make_model(encoder)
  task, facts, params = model.localizer
  # All candidates, so that the kept ones do not depend on the window.
  decode = facts["decode"] | {"num_kept": 2000, "num_candidates": 2000}
  facts = facts | {"decode": decode}
  task = type(task)(**{
    field.name: getattr(task, field.name) for field in dataclasses.fields(task)
  } | {"decode_config": type(task.decode_config)(**decode)})  # fmt: skip
  model = dataclasses.replace(model, localizer=(task, facts, params))
  request = {"labels": LABELS, "max_predictions": 2000}
  monkeypatch.setattr(sequences, "_MIN_LONG_SNIPPETS", 128)
  (whole,) = predict.predict(model, [long_video], **request)["videos"]
  monkeypatch.setattr(sequences, "_MIN_LONG_SNIPPETS", 32)
  (parts,) = predict.predict(model, [long_video], **request)["videos"]
  best = [e for e in whole["predictions"] if e["end_sec"] - e["start_sec"] < 8]
  best = best[:20]
  assert best
  for entry in best:
    assert any(
      other["label"] == entry["label"]
      and abs(other["start_sec"] - entry["start_sec"]) < 0.5
      and abs(other["end_sec"] - entry["end_sec"]) < 0.5
      for other in parts["predictions"]
    ), entry
  scores = [entry["score"] for entry in parts["predictions"]]
  assert scores == sorted(scores, reverse=True)


def test_queries_and_examples_over_windows(
  encoder, long_video, tmp_path, monkeypatch
):
  monkeypatch.setattr(sequences, "_MIN_LONG_SNIPPETS", 16)
  (tmp_path / "spins").mkdir()
  (tmp_path / "spins" / "a.mp4").write_bytes(built_dataset.encode_mp4(24))
  seen = []
  document = predict.predict(
    toy_model.make_model(encoder),
    [long_video],
    queries=["it spins", "it fades"],
    support_dir=tmp_path,
    max_predictions=3,
    on_time=lambda *x: seen.append(x),
  )
  (found,) = document["videos"]
  assert set(found["absence"]) == {"it spins", "it fades"}
  asked = [e.get("query") or e["label"] for e in found["predictions"]]
  assert asked == ["spins"] * 3 + ["it spins"] * 3 + ["it fades"] * 3
  assert seen[-1] == (68.0, pytest.approx(70.0))


def test_a_moment_of_two_windows_is_listed_once():
  def moment(start, end, score, name="a", window=0):
    return video_predictor.Moment(np.array([start, end]), score, name, window)

  first, second = moment(10, 20, 0.9), moment(11, 20, 0.8, window=1)
  assert video_predictor.merged([second, first]) == [first]
  others = [moment(11, 20, 0.8), moment(10, 20, 0.7, name="b", window=1),
            moment(18, 30, 0.6, window=1)]  # fmt: skip
  assert video_predictor.merged([first, *others]) == [first, *others]
