"""Converts UCI HAPT's sensor recordings to features and annotations.

Turns untrimmed inertial recordings into the same files that `clap extract`
writes for videos, simple statistics of sliding windows, so that a localizer
trains on them; and the archive's labels into ActivityNet's JSON form.
"""

import io
import itertools
import json
import os
import pathlib
import re
from collections.abc import Iterator

import numpy as np

from clap_jax.data.features import (
  FeatureError,
  FeatureGrid,
  VideoFeatures,
  save_features,
)
from clap_jax.storage import arrays, output, untrusted

# Hz; edges of the bands whose power is a feature.
_BAND_EDGES = (0.5, 1.5, 3.0, 5.0, 8.0, 12.0, 25.0)
_SMALLEST = 1e-4  # added before logarithms, in the unit of the signal
ANNOTATIONS_FILE = "annotations.json"
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
_RAW_FILE = re.compile(r"acc_(exp\d+_user\d+)\.txt")


def window_features(
  signals: np.ndarray,
  *,
  rate_hz: float,
  window_samples: int,
  stride_samples: int,
) -> VideoFeatures:
  """Statistics of each window of a recording.

  Of every channel and of the length of every triple of channels (x, y, z of one
  sensor): mean, log deviation, least, greatest, the change from the first to
  the second half, and the log power in six bands from 0.5 to 25 Hz.

  Args:
    signals: (t, channels), evenly sampled; channels in triples.
    rate_hz: samples per second.
    window_samples: samples of a window, at least 4.
    stride_samples: samples from one window to the next.

  Raises:
    FeatureError: signals that are not finite, too short or not in triples.
  """
  if (
    signals.ndim != 2 or signals.shape[1] % 3 or not np.isfinite(signals).all()
  ):
    raise FeatureError(
      f"signals of shape {signals.shape}; expected finite numbers (samples, "
      "channels) with three channels per sensor"
    )
  if window_samples < 4 or stride_samples < 1 or rate_hz <= 0:
    raise ValueError(
      f"window_samples {window_samples} must be at least 4, stride_samples "
      f"{stride_samples} at least 1, rate_hz {rate_hz} above 0"
    )
  if len(signals) < window_samples:
    raise FeatureError(
      f"a recording of {len(signals)} samples is shorter than one window of "
      f"{window_samples}"
    )
  signals = signals.astype(np.float64)
  lengths = np.linalg.norm(signals.reshape(len(signals), -1, 3), axis=-1)
  signals = np.concatenate([signals, lengths], axis=1)
  windows = np.lib.stride_tricks.sliding_window_view(
    signals, window_samples, axis=0
  )[::stride_samples]  # (n, channels, window)
  mean = windows.mean(axis=-1)
  half = window_samples // 2
  parts = [
    mean,
    np.log(windows.std(axis=-1) + _SMALLEST),
    windows.min(axis=-1),
    windows.max(axis=-1),
    windows[..., half:].mean(axis=-1) - windows[..., :half].mean(axis=-1),
  ]
  taper = np.hanning(window_samples)
  spectrum = np.fft.rfft((windows - mean[..., None]) * taper, axis=-1)
  power = np.abs(spectrum) ** 2 / window_samples
  frequency_hz = np.fft.rfftfreq(window_samples, 1 / rate_hz)
  for low, high in itertools.pairwise(_BAND_EDGES):
    band = (frequency_hz >= low) & (frequency_hz < high)
    parts.append(np.log(power[..., band].sum(axis=-1) + _SMALLEST**2))
  grid = FeatureGrid.from_frames(
    fps=rate_hz, stride_frames=stride_samples, clip_frames=window_samples
  )
  return VideoFeatures(np.concatenate(parts, axis=1).astype(np.float32), grid)


def recordings(path: str | os.PathLike) -> Iterator[tuple[str, np.ndarray]]:
  """Yields (id, signals (t, 6)) of UCI HAPT: accelerometer, gyroscope.

  Args:
    path: the folder RawData of the published archive (acc_expXX_userYY.txt,
      gyro_expXX_userYY.txt), or an .npz with one array per expXX_userYY.

  Raises:
    FileNotFoundError: there is no such folder or file, or nothing in it.
    FeatureError: it is damaged.
  """
  path = pathlib.Path(path)
  if path.is_dir():
    files = sorted(f for f in path.iterdir() if _RAW_FILE.fullmatch(f.name))
    if not files:
      raise FileNotFoundError(f"{path} holds no acc_expXX_userYY.txt.")
    for file in files:
      name = _RAW_FILE.fullmatch(file.name)[1]
      pair = (file, path / f"gyro_{name}.txt")
      try:
        yield name, np.concatenate([_table(f) for f in pair], axis=1)
      except (OSError, ValueError) as error:
        raise FeatureError(f"cannot read {name} in {path}: {error}") from error
    return
  if not path.is_file():
    raise FileNotFoundError(
      f"{path} is neither a folder RawData nor an .npz file."
    )
  try:
    with arrays.open_npz(path) as archive:
      names = [n for n in archive if re.fullmatch(r"exp\d+_user\d+", n)]
      for name in sorted(names):
        yield name, archive[name]
  except (OSError, ValueError) as error:
    raise FeatureError(f"cannot read {path}: {error}") from error


def _table(path: pathlib.Path, **options) -> np.ndarray:
  return np.loadtxt(io.StringIO(untrusted.read_text(path)), **options)


def read_labels(path: str | os.PathLike) -> np.ndarray:
  """Rows (experiment, user, activity, first sample, last sample), from one.

  Args:
    path: as for `recordings`; of labels.txt or the array "labels".

  Raises:
    FileNotFoundError: the folder holds no labels.txt.
    FeatureError: it is damaged.
  """
  path = pathlib.Path(path)
  try:
    if path.is_dir():
      labels = _table(path / "labels.txt", dtype=np.int64, ndmin=2)
    else:
      with arrays.open_npz(path) as archive:
        labels = np.asarray(archive["labels"], np.int64)
  except FileNotFoundError:
    raise
  except (OSError, ValueError, KeyError) as error:
    raise FeatureError(f"cannot read the labels of {path}: {error}") from error
  is_known = labels.shape[1:] == (5,) and np.isin(
    labels[:, 2], np.arange(1, len(ACTIVITIES) + 1)
  )
  if not np.all(is_known):
    raise FeatureError(
      f"labels of {path} have the shape {labels.shape}; expected five columns, "
      f"the third from 1 to {len(ACTIVITIES)}"
    )
  return labels


def annotation_document(
  labels: np.ndarray, num_samples: dict[str, int], *, rate_hz: float
) -> dict:
  """ActivityNet's JSON form; the archive's test subjects are "validation".

  Args:
    labels: see `read_labels`.
    num_samples: recording -> its length.
    rate_hz: samples per second.
  """
  database = {}
  for name, count in num_samples.items():
    experiment, user = map(int, re.findall(r"\d+", name))
    rows = labels[(labels[:, 0] == experiment) & (labels[:, 1] == user)]
    subset = "validation" if user in TEST_SUBJECTS else "training"
    database[name] = {
      "subset": subset,
      "duration": count / rate_hz,
      "annotations": [
        {
          "label": ACTIVITIES[activity - 1],
          "segment": [(first - 1) / rate_hz, last / rate_hz],
        }
        for activity, first, last in rows[:, 2:].tolist()
      ],
    }
  return {"version": "HAPT", "taxonomy": [], "database": database}


def write_window_features(
  path: str | os.PathLike,
  out: str | os.PathLike,
  *,
  rate_hz: float,
  window_samples: int,
  stride_samples: int,
) -> list[str]:
  """One file per recording in `out`, and the annotations; returns the ids.

  See `recordings` and `read_labels` for the input.
  """
  labels = read_labels(path)
  num_samples = {}
  for name, signals in recordings(path):
    video = window_features(
      signals,
      rate_hz=rate_hz,
      window_samples=window_samples,
      stride_samples=stride_samples,
    )
    save_features(out, name, video)
    num_samples[name] = len(signals)
  document = annotation_document(labels, num_samples, rate_hz=rate_hz)
  text = json.dumps(document, indent=1) + "\n"
  output.write_text(pathlib.Path(out, ANNOTATIONS_FILE), text)
  return list(num_samples)
