"""Memory of predicting on a video of an hour against one of five minutes."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from tests import conftest
from tfds_builders import encoding

FPS, SIDE = 8, 64
ALLOWED_GROWTH = 1.15
DRIVER = """
import json, pathlib, resource, sys, time
from clap_jax.inference import predict
from tests.inference import toy_model

directory, video = map(pathlib.Path, sys.argv[1:])
directory.mkdir(exist_ok=True)
model = toy_model.make_model(toy_model.make_encoder(directory))
started = time.perf_counter()
document = predict.predict(
  model, [video], labels=model.label_names, queries=["it spins"]
)
(found,) = document["videos"]
print(json.dumps({
  "seconds": time.perf_counter() - started,
  "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
  "duration_sec": found["duration_sec"],
  "predictions": len(found["predictions"]),
}))
"""


def write_video(path, minutes):
  """Squares that wander over noise, `minutes` long."""
  rng = np.random.default_rng(0)
  noise = rng.integers(0, 90, (SIDE, SIDE, 3), np.uint8)

  def frames():
    for number in range(minutes * 60 * FPS):
      frame = noise.copy()
      x, y = (int(28 + 26 * f(number / 40)) for f in (np.cos, np.sin))
      frame[y : y + 8, x : x + 8] = 255
      yield frame

  encoding.write_mp4(frames(), path, fps=FPS)
  return path


def predicted(directory, video):
  result = subprocess.run(
    [sys.executable, "-c", DRIVER, str(directory), str(video)],
    capture_output=True, text=True, timeout=3600, check=False,
    cwd=conftest.REPOSITORY, env=os.environ | {"XLA_FLAGS": ""},
  )  # fmt: skip
  assert result.returncode == 0, result.stderr
  return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.slow
def test_an_hour_takes_no_more_memory_than_some_minutes(tmp_path):
  # Both have several windows, so that both compile the same programs.
  short = predicted(tmp_path, write_video(tmp_path / "short.mp4", 36))
  long = predicted(tmp_path, write_video(tmp_path / "long.mp4", 120))
  print(f"36 min: {short}\n120 min: {long}")
  assert long["duration_sec"] == pytest.approx(7200.0)
  assert long["predictions"]
  assert long["peak_mib"] <= ALLOWED_GROWTH * short["peak_mib"]
