"""Tutorial: features of recordings that are not videos, by UCI HAPT.

  python -m tests.tutorials.sensor_features RAW_DATA OUT [STRIDE_SAMPLES]

writes what a localizer trains on: one .npz per recording, as `clap extract`
writes it for a video, and ActivityNet's JSON of the labels. RAW_DATA is the
folder RawData of the published archive; the features are simple statistics of
sliding windows. For sensors of your own replace `recordings` and `annotations`.
"""

import itertools
import json
import pathlib
import re
import sys
from collections.abc import Iterator

import numpy as np

from clap_jax.data import features

RATE_HZ = 50.0
WINDOW_SAMPLES, STRIDE_SAMPLES = 64, 16
# Hz; edges of the bands whose power is a feature.
BAND_EDGES = (0.5, 1.5, 3.0, 5.0, 8.0, 12.0, 25.0)
SMALLEST = 1e-4  # added before logarithms, in the unit of the signal
# As the archive's activity_labels.txt numbers them, from one.
ACTIVITIES = (
  "WALKING",
  "WALKING_UPSTAIRS",
  "WALKING_DOWNSTAIRS",
  "SITTING",
  "STANDING",
  "LAYING",
  "STAND_TO_SIT",
  "SIT_TO_STAND",
  "SIT_TO_LIE",
  "LIE_TO_SIT",
  "STAND_TO_LIE",
  "LIE_TO_STAND",
)
TEST_SUBJECTS = (2, 4, 9, 10, 12, 13, 18, 20, 24)  # of the archive's split


def recordings(folder: pathlib.Path) -> Iterator[tuple[str, np.ndarray]]:
  """Yields (id, signals (t, 6)): three axes of acceleration, three of turn."""
  for file in sorted(folder.glob("acc_exp*_user*.txt")):
    name = file.stem.removeprefix("acc_")
    pair = (file, folder / f"gyro_{name}.txt")
    yield name, np.concatenate([np.loadtxt(f) for f in pair], axis=1)


def window_features(
  signals: np.ndarray, *, stride_samples: int
) -> features.VideoFeatures:
  """Statistics of each window of a recording.

  Of every channel and of the length of every triple of channels (x, y, z of one
  sensor): mean, log deviation, least, greatest, the change from the first to
  the second half, and the log power in six bands from 0.5 to 25 Hz.
  """
  signals = signals.astype(np.float64)
  lengths = np.linalg.norm(signals.reshape(len(signals), -1, 3), axis=-1)
  signals = np.concatenate([signals, lengths], axis=1)
  windows = np.lib.stride_tricks.sliding_window_view(
    signals, WINDOW_SAMPLES, axis=0
  )[::stride_samples]  # (n, channels, window)
  mean = windows.mean(axis=-1)
  half = WINDOW_SAMPLES // 2
  parts = [
    mean,
    np.log(windows.std(axis=-1) + SMALLEST),
    windows.min(axis=-1),
    windows.max(axis=-1),
    windows[..., half:].mean(axis=-1) - windows[..., :half].mean(axis=-1),
  ]
  taper = np.hanning(WINDOW_SAMPLES)
  spectrum = np.fft.rfft((windows - mean[..., None]) * taper, axis=-1)
  power = np.abs(spectrum) ** 2 / WINDOW_SAMPLES
  frequency_hz = np.fft.rfftfreq(WINDOW_SAMPLES, 1 / RATE_HZ)
  for low, high in itertools.pairwise(BAND_EDGES):
    band = (frequency_hz >= low) & (frequency_hz < high)
    parts.append(np.log(power[..., band].sum(axis=-1) + SMALLEST**2))
  grid = features.FeatureGrid.from_frames(
    fps=RATE_HZ, stride_frames=stride_samples, clip_frames=WINDOW_SAMPLES
  )
  return features.VideoFeatures(
    np.concatenate(parts, axis=1).astype(np.float32), grid
  )


def annotations(labels: np.ndarray, num_samples: dict[str, int]) -> dict:
  """ActivityNet's JSON form; the archive's test subjects are "validation".

  Args:
    labels: rows (experiment, user, activity, first sample, last sample), all
      from one.
    num_samples: recording -> its length.
  """
  database = {}
  for name, count in num_samples.items():
    experiment, user = map(int, re.findall(r"\d+", name))
    rows = labels[(labels[:, 0] == experiment) & (labels[:, 1] == user)]
    database[name] = {
      "subset": "validation" if user in TEST_SUBJECTS else "training",
      "duration": count / RATE_HZ,
      "annotations": [
        {
          "label": ACTIVITIES[activity - 1],
          "segment": [(first - 1) / RATE_HZ, last / RATE_HZ],
        }
        for activity, first, last in rows[:, 2:].tolist()
      ],
    }
  return {"version": "HAPT", "taxonomy": [], "database": database}


def tutorial(
  raw: pathlib.Path, out: pathlib.Path, *, stride_samples: int = STRIDE_SAMPLES
) -> dict:
  """Writes features and annotations; returns the annotations."""
  num_samples = {}
  for name, signals in recordings(raw):
    video = window_features(signals, stride_samples=stride_samples)
    features.save_features(out, name, video)
    num_samples[name] = len(signals)
  labels = np.loadtxt(raw / "labels.txt", dtype=np.int64, ndmin=2)
  document = annotations(labels, num_samples)
  (out / "annotations.json").write_text(json.dumps(document, indent=1) + "\n")
  print(f"{len(num_samples)} recordings; features and annotations lie in {out}")
  return document


def main(arguments: list[str]) -> None:
  raw, out, *stride = arguments
  tutorial(
    pathlib.Path(raw),
    pathlib.Path(out),
    stride_samples=int(stride[0]) if stride else STRIDE_SAMPLES,
  )


if __name__ == "__main__":
  main(sys.argv[1:])
