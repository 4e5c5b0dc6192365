"""Inputs of `clap predict`: folders, and features of another encoder."""

import dataclasses
import json
import pathlib
import re

import numpy as np
import pytest

from clap_jax import main
from clap_jax.data import features
from clap_jax.inference import inputs, model_directory, predict
from clap_jax.public_weights import cache
from tests.data import built_dataset
from tests.inference import toy_model

WIDTH, STRIDE, CLIP, FPS, OFFSET = 16, 4, 16, 30.0, 2
FILES = {
  "names": ["{id}.npy"],
  "key": "",
  "axis_order": "td",
  "timing": "frames",
  "fps": FPS,
  "stride_frames": STRIDE,
  "window_frames": CLIP,
  "offset_frames": OFFSET,
  "encoder": "i3d",
}


@pytest.fixture
def sequence():
  return np.random.default_rng(0).normal(size=(40, WIDTH)).astype(np.float32)


@pytest.fixture
def path(tmp_path, sequence):
  path = tmp_path / "video_1.npy"
  np.save(path, sequence)
  return path


def model_of(encoder, files, **facts):
  """A localizer on given features, without any encoder."""
  task, known, params = toy_model.make_model(encoder).localizer
  known = known | {"files": files, "stride_sec": None, "clip_sec": None} | facts
  return model_directory.Model(None, None, (task, known, params), None)


def predicted(model, path, **options):
  document = predict.predict(model, [path], **options)
  assert document["failed"] == [], document
  return document["videos"][0]


def test_timing_of_the_metadata(encoder, path, sequence):
  found = predicted(model_of(encoder, FILES), path)
  grid = features.FeatureGrid(
    start_sec=OFFSET / FPS, stride_sec=STRIDE / FPS, clip_sec=CLIP / FPS
  )
  assert found["video"] == str(path)
  assert found["duration_sec"] == pytest.approx(
    (OFFSET + 39 * 4 + 16 + 2) / FPS
  )
  stored = path.parent / "stored" / "video_1.npz"
  features.save_features(
    stored.parent, "video_1", features.VideoFeatures(sequence, grid)
  )
  own = predicted(model_of(encoder, None), stored)
  assert own["predictions"] == found["predictions"] != []


def test_the_duration_is_known_to_half_a_stride():
  grid = features.FeatureGrid(start_sec=0.0, stride_sec=0.5, clip_sec=2.0)
  for duration_sec in np.arange(2.0, 9.0, 0.07):
    sequence = np.zeros((grid.num_features(duration_sec), 3), np.float32)
    video = features.VideoFeatures(sequence, grid)
    found = inputs.estimated_duration_sec(video)
    assert abs(found - duration_sec) <= 0.25 + 1e-6


def test_another_timing(encoder, path):
  given = predicted(
    model_of(encoder, FILES), path, feature_timing={"fps": 15.0}
  )
  stated = predicted(model_of(encoder, FILES), path)
  assert given["duration_sec"] == pytest.approx(2 * stated["duration_sec"])
  for mine, theirs in zip(
    given["predictions"], stated["predictions"], strict=True
  ):
    assert mine["start_sec"] == pytest.approx(2 * theirs["start_sec"])
    assert mine["score"] == theirs["score"]


def test_files_that_store_time_last(encoder, tmp_path, path, sequence):
  turned = tmp_path / "turned.npz"
  np.savez(turned, i3d=sequence.T, other=np.zeros(3))
  files = FILES | {"axis_order": "dt", "key": "i3d"}
  found = predicted(model_of(encoder, files), turned)
  expected = predicted(model_of(encoder, FILES), path)
  assert found["predictions"] == expected["predictions"]


def test_resized_as_in_training(encoder, path):
  found = predicted(model_of(encoder, FILES, length="resize"), path)
  plain = predicted(model_of(encoder, FILES), path)
  assert found["predictions"] != plain["predictions"]
  lengths = [e["end_sec"] for e in found["predictions"]]
  assert max(lengths) <= found["duration_sec"]


@pytest.mark.parametrize(
  ("files", "width", "message"),
  [
    (FILES | {"fps": None}, WIDTH, "fps.*--feature_timing"),
    (FILES | {"timing": "even"}, WIDTH, "stride_frames.*--feature_timing"),
    (None, WIDTH, "--feature_timing"),
    (FILES, WIDTH + 1, "width 17.*16"),
    (FILES | {"names": ["{id}_a.npy", "{id}_b.npy"]}, 8, "joined from"),
  ],
)
def test_features_without_timing_are_listed(
  encoder, tmp_path, files, width, message
):
  other = tmp_path / "other.npy"
  np.save(other, np.zeros((8, width), np.float32))
  document = predict.predict(model_of(encoder, files), [other])
  assert document["videos"] == []
  (entry,) = document["failed"]
  assert entry["video"] == str(other)
  assert re.search(message, entry["reason"])


def test_damaged_features_among_good_ones(encoder, tmp_path, path):
  damaged = tmp_path / "damaged.npy"
  damaged.write_bytes(path.read_bytes()[:200])
  missing = tmp_path / "missing.npy"
  document = predict.predict(model_of(encoder, FILES), [damaged, path, missing])
  assert [v["video"] for v in document["videos"]] == [str(path)]
  assert [e["video"] for e in document["failed"]] == [
    str(damaged),
    str(missing),
  ]


def test_streams_that_lie_beside_a_file_are_joined(encoder, tmp_path):
  names = ["slow/{id}.npy", "fast/{id}.npy"]
  model = model_of(encoder, FILES | {"names": names})
  whole = np.random.default_rng(0).normal(size=(9, WIDTH)).astype(np.float32)
  for folder, part in (("slow", whole[:, :10]), ("fast", whole[:8, 10:])):
    (tmp_path / folder).mkdir()
    np.save(tmp_path / folder / "a.npy", part)
  np.save(tmp_path / "joined.npy", whole[:8])
  files = [
    tmp_path / name for name in ("joined.npy", "slow/a.npy", "fast/a.npy")
  ]
  document = predict.predict(model, files)
  assert document["failed"] == []
  expected, *others = (video["predictions"] for video in document["videos"])
  assert expected and others == [expected, expected]


def test_names_of_streams_stay_in_their_folder(tmp_path):
  for name in ("a/x.npy", "b/x.npy"):
    (tmp_path / name).parent.mkdir()
    (tmp_path / name).write_bytes(b"")
  path = tmp_path / "a" / "x.npy"
  assert inputs.stream_paths(path, ["{id}.npy", "../b/{id}.npy"]) == [path]
  assert inputs.stream_paths(path, ["a/{id}.npy", "b/{id}.npy"]) == [
    path, tmp_path / "b" / "x.npy",
  ]  # fmt: skip
  assert inputs.stream_paths(path, ["a/{id}.npy", "c/{id}.npy"]) == [path]


@pytest.mark.parametrize(
  "text",
  [
    "fps=0",
    "fps",
    "rate=3",
    "fps=30,fps=x",
    "stride_frames=-1",
    "",
    "fps=1e400",
  ],
)
def test_timings_that_are_refused(text):
  with pytest.raises(ValueError, match="--feature_timing"):
    inputs.parse_timing(text)


def test_timings():
  assert inputs.parse_timing("fps=29.97, offset_frames=0,stride_frames=4") == {
    "fps": 29.97, "offset_frames": 0.0, "stride_frames": 4.0,
  }  # fmt: skip


def test_videos_need_an_encoder(encoder, path, tmp_path):
  model = model_of(encoder, FILES)
  with pytest.raises(ValueError, match=r"\.npy"):
    predict.predict(model, [tmp_path / "a.mp4"])
  with pytest.raises(ValueError, match="encoder"):
    predict.predict(
      dataclasses.replace(
        model, grounder=toy_model.make_model(encoder).grounder
      ),
      [path],
      queries=["it spins"],
    )


def test_folders(tmp_path):
  folder, outside = tmp_path / "videos", tmp_path / "outside.mp4"
  (folder / "deeper").mkdir(parents=True)
  (folder / ".cache").mkdir()
  outside.write_bytes(b"secret")
  for name in ("b.mp4", "deeper/a.MKV", "notes.txt", "._b.mp4", ".cache/x.mp4"):
    (folder / name).write_bytes(b"")
  (folder / "link.mp4").symlink_to(outside)
  (folder / "inner.mp4").symlink_to(folder / "b.mp4")
  found = inputs.find([folder, "given.npy"])
  names = [str(path) for path in found.files]
  expected = ["b.mp4", "deeper/a.MKV", "inner.mp4"]
  assert names == [*(str(folder / name) for name in expected), "given.npy"]
  assert [entry["video"] for entry in found.failed] == [
    str(folder / "link.mp4")
  ]
  assert found.num_skipped == 1
  (tmp_path / "empty").mkdir()
  with pytest.raises(FileNotFoundError, match="no videos"):
    inputs.find([tmp_path / "empty"])


def test_the_command(encoder, path, tmp_path, monkeypatch, capsys):
  asked = []
  models = {
    True: toy_model.make_model(encoder),
    False: model_of(encoder, FILES),
  }

  def load(directory, *, needs_encoder):
    asked.append(needs_encoder)
    return models[needs_encoder]

  monkeypatch.setattr(model_directory, "load_model", load)
  monkeypatch.setattr(cache, "existing_directory_of", pathlib.Path)
  out = tmp_path / "out.json"
  arguments = ["--model", "m", "--json", str(out)]
  assert main.main(["predict", str(path), *arguments]) == 0
  slow = json.loads(out.read_text())["videos"][0]["duration_sec"]
  timing = ["--feature_timing", "fps=60,stride_frames=4,window_frames=16"]
  assert main.main(["predict", str(path), *arguments, *timing]) == 0
  fast = json.loads(out.read_text())["videos"][0]["duration_sec"]
  assert fast == pytest.approx(slow / 2, abs=0.1)
  folder = tmp_path / "videos"
  folder.mkdir()
  (folder / "a.mp4").write_bytes(built_dataset.encode_mp4(24))
  (folder / "notes.txt").write_text("")
  assert main.main(["predict", str(folder), *arguments]) == 0
  document = json.loads(out.read_text())
  assert [v["video"] for v in document["videos"]] == [str(folder / "a.mp4")]
  assert document["skipped"] == 1
  assert asked == [False, False, True]
  (folder / "a.mp4").unlink()
  assert main.main(["predict", str(folder), *arguments]) == 2
  assert "no videos" in capsys.readouterr().err
