"""Window statistics of sensor recordings."""

import json

import numpy as np
import pytest

from clap_jax.data import sensors
from clap_jax.data.features import FeatureError, load_features

SIZES = {"rate_hz": 50.0, "window_samples": 64, "stride_samples": 16}


def test_statistics_and_grid():
  time_sec = np.arange(400) / 50
  signals = np.zeros((400, 6))
  signals[:, 0] = 1.0
  signals[:, 3] = np.sin(2 * np.pi * 6.25 * time_sec)  # in the band 5 to 8 Hz
  video = sensors.window_features(signals, **SIZES)
  assert video.features.shape == ((400 - 64) // 16 + 1, 8 * (5 + 6))
  assert video.grid.stride_sec == 16 / 50 and video.grid.clip_sec == 64 / 50
  columns = video.features.reshape(len(video.features), 11, 8)
  np.testing.assert_allclose(columns[:, 0, 0], 1.0)
  np.testing.assert_allclose(columns[:, 0, 6], 1.0)  # their length
  np.testing.assert_allclose(columns[:, 1, 3], np.log(np.sqrt(0.5)), atol=1e-2)
  bands = columns[:, 5:, 3]
  assert (bands.argmax(axis=1) == 3).all()
  assert (bands[:, 3] > bands[:, 0] + 5).all()


def test_values_follow_the_time_of_the_grid():
  signals = np.repeat(np.arange(500)[:, None] / 50, 3, axis=1)
  video = sensors.window_features(signals, **SIZES)
  seconds = video.grid.to_seconds(np.arange(len(video.features)))
  half_sample = 0.5 / 50
  np.testing.assert_allclose(
    video.features[:, 0], seconds - half_sample, rtol=1e-5
  )


def test_both_forms_of_the_archive(tmp_path):
  rng = np.random.default_rng(0)
  signals = {f"exp0{i}_user01": rng.normal(size=(100, 6)) for i in (1, 2)}
  raw = tmp_path / "RawData"
  raw.mkdir()
  labels = np.array([(1, 1, 5, 11, 60), (2, 1, 12, 1, 100)])
  np.savetxt(raw / "labels.txt", labels, fmt="%d")
  for name, values in signals.items():
    np.savetxt(raw / f"acc_{name}.txt", values[:, :3])
    np.savetxt(raw / f"gyro_{name}.txt", values[:, 3:])
  np.savez(tmp_path / "all.npz", labels=labels, **signals)
  found = {}
  for path in (raw, tmp_path / "all.npz"):
    out = tmp_path / f"out_{path.stem}"
    assert sensors.write_window_features(path, out, **SIZES) == sorted(signals)
    found[path.stem] = load_features(out, "exp02_user01")
    text = (out / sensors.ANNOTATIONS_FILE).read_text()
    database = json.loads(text)["database"]
    assert database["exp02_user01"] == {
      "subset": "training",
      "duration": 2.0,
      "annotations": [{"label": "LIE_TO_STAND", "segment": [0.0, 2.0]}],
    }
    (entry,) = database["exp01_user01"]["annotations"]
    assert entry == {"label": "STANDING", "segment": [0.2, 1.2]}
  np.testing.assert_allclose(
    found["RawData"].features, found["all"].features, rtol=1e-4, atol=1e-5
  )
  assert found["RawData"].grid == found["all"].grid
  (raw / "gyro_exp02_user01.txt").unlink()
  with pytest.raises(FeatureError, match="cannot read exp02_user01"):
    list(sensors.recordings(raw))
  with pytest.raises(FileNotFoundError, match="RawData"):
    list(sensors.recordings(tmp_path / "nowhere"))
  (raw / "labels.txt").write_text("1 1 13 11 60")
  with pytest.raises(FeatureError, match="third from 1 to 12"):
    sensors.read_labels(raw)
  (raw / "labels.txt").unlink()
  with pytest.raises(FileNotFoundError):
    sensors.read_labels(raw)


@pytest.mark.parametrize(
  ("signals", "message"),
  [
    (np.zeros((100, 4)), "three channels"),
    (np.full((100, 3), np.nan), "finite"),
    (np.zeros((63, 3)), "shorter than one window"),
  ],
)
def test_bad_signals(signals, message):
  with pytest.raises(FeatureError, match=message):
    sensors.window_features(signals, **SIZES)


def test_real_labels(shared_data):
  folder = shared_data / "hapt"
  with np.load(folder / "hapt_raw_50hz.npz") as archive:
    sizes = {n: len(archive[n]) for n in sorted(archive.files) if "exp" in n}
  labels = sensors.read_labels(folder / "hapt_raw_50hz.npz")
  text = (folder / "labels.txt").read_text()
  np.testing.assert_array_equal(labels, np.loadtxt(text.splitlines(), int))
  document = sensors.annotation_document(labels, sizes, rate_hz=50.0)
  expected = json.loads((folder / "hapt_activitynet_format.json").read_text())
  assert document["database"] == expected["database"]


def test_real_recordings(shared_data, tmp_path):
  path = shared_data / "hapt" / "hapt_raw_50hz.npz"
  name, signals = next(sensors.recordings(path))
  assert name == "exp01_user01" and signals.shape == (20598, 6)
  video = sensors.window_features(signals, **SIZES)
  # Recordings of a phone: the mean acceleration is that of gravity, 1 g.
  length = video.features[:, 6]
  assert np.median(length) == pytest.approx(1.0, abs=0.05)
