"""The tutorial on sensor recordings: its statistics, times and labels."""

import json

import numpy as np
import pytest

from clap_jax.data import features
from tests.tutorials import sensor_features


def test_statistics_and_times():
  time_sec = np.arange(400) / 50
  signals = np.zeros((400, 6))
  signals[:, 0] = time_sec
  signals[:, 3] = np.sin(2 * np.pi * 6.25 * time_sec)  # in the band 5 to 8 Hz
  video = sensor_features.window_features(signals, stride_samples=16)
  assert video.features.shape == ((400 - 64) // 16 + 1, 8 * (5 + 6))
  seconds = video.grid.to_seconds(np.arange(len(video.features)))
  half_sample = 0.5 / 50
  np.testing.assert_allclose(
    video.features[:, 0], seconds - half_sample, rtol=1e-5
  )
  columns = video.features.reshape(len(video.features), 11, 8)
  np.testing.assert_allclose(columns[:, 1, 3], np.log(np.sqrt(0.5)), atol=1e-2)
  bands = columns[:, 5:, 3]
  assert (bands.argmax(axis=1) == 3).all()


def test_files_of_the_archive(tmp_path):
  rng = np.random.default_rng(0)
  raw, out = tmp_path / "RawData", tmp_path / "out"
  raw.mkdir()
  labels = np.array([(1, 1, 5, 11, 60), (2, 2, 12, 1, 100)])
  np.savetxt(raw / "labels.txt", labels, fmt="%d")
  for name in ("exp01_user01", "exp02_user02"):
    for kind in ("acc", "gyro"):
      np.savetxt(raw / f"{kind}_{name}.txt", rng.normal(size=(100, 3)))
  sensor_features.main([str(raw), str(out), "32"])
  video = features.load_features(out, "exp02_user02")
  assert len(video.features) == 2 and video.grid.stride_sec == 32 / 50
  database = json.loads((out / "annotations.json").read_text())["database"]
  assert database["exp02_user02"] == {
    "subset": "validation",
    "duration": 2.0,
    "annotations": [{"label": "LIE_TO_STAND", "segment": [0.0, 2.0]}],
  }
  (entry,) = database["exp01_user01"]["annotations"]
  assert entry == {"label": "STANDING", "segment": [0.2, 1.2]}


def test_real_recordings(shared_data):
  folder = shared_data / "hapt"
  with np.load(folder / "hapt_raw_50hz.npz") as archive:
    sizes = {n: len(archive[n]) for n in sorted(archive.files) if "exp" in n}
    signals = archive["exp01_user01"]
  labels = np.loadtxt(folder / "labels.txt", dtype=np.int64)
  expected = json.loads((folder / "hapt_activitynet_format.json").read_text())
  document = sensor_features.annotations(labels, sizes)
  assert document["database"] == expected["database"]
  # Recordings of a phone: the mean acceleration is that of gravity, 1 g.
  video = sensor_features.window_features(signals, stride_samples=16)
  assert np.median(video.features[:, 6]) == pytest.approx(1.0, abs=0.05)
