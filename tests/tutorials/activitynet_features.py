"""Tutorial: ActivityNet on public features, from files to mAP.

  python -m tests.tutorials.activitynet_features FEATURES FOLDER

trains a localizer on feature files that others have published and scores its
predictions; no video is needed. FEATURES is a folder of one CSV per video (five
rows of 400 numbers in the example), FOLDER takes what is written. With the
public TSP features (one .npy per video, 512 numbers each 16 frames at 15 fps)
leave out every `data.files` line: they are what the config expects.
"""

import json
import pathlib
import sys

from clap_jax import main

VIDEOS = {
  # id: (subset, seconds, [(start, end, label)])
  "v_test1": ("training", 1.0, [(0.3, 0.6, "Rock climbing")]),
  "v_test2": ("validation", 2.0, [(0.6, 1.4, "Rock climbing")]),
}


def write_annotations(path: pathlib.Path) -> pathlib.Path:
  """Annotations in ActivityNet's own form."""
  database = {
    video: {
      "subset": subset,
      "duration": duration_sec,
      "annotations": [
        {"segment": [start, end], "label": label}
        for start, end, label in segments
      ],
    }
    for video, (subset, duration_sec, segments) in VIDEOS.items()
  }
  path.write_text(json.dumps({"version": "1-3", "database": database}))
  return path


def tutorial(features: pathlib.Path, root: pathlib.Path) -> dict:
  """Trains and scores below `root`; returns what `clap score` says."""
  root.mkdir(parents=True, exist_ok=True)
  annotations = write_annotations(root / "activitynet.json")
  run = root / "run"

  # 1. Train. `files` says how the features are called and where in time each
  #    stands: here one per six frames of 30 per second.
  train = [
    "train",
    "--config=configs/localization_activitynet.py:tiny",
    f"--workdir={run}",
    f"--config.data.features_dir={features}",
    f"--config.data.annotations={annotations}",
    "--config.data.files.names=('{id}.csv',)",
    "--config.data.files.fps=30.0",
    "--config.data.files.stride_frames=6.0",
    "--config.data.files.window_frames=6.0",
    "--config.data.batch_size=8",
  ]
  if main.main(train) != 0:
    raise SystemExit("clap train failed")

  # 2. Score. The run has done so already, in results.json; a prediction file
  #    of anybody in ActivityNet's form is scored the same way.
  score = root / "score.json"
  command = [
    "score",
    str(run / "predictions.json"),
    f"--ground_truth={annotations}",
    "--protocol=activitynet",
    "--subset=validation",
    f"--json={score}",
  ]
  if main.main(command) != 0:
    raise SystemExit("clap score failed")
  return json.loads(score.read_text())


if __name__ == "__main__":
  tutorial(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
