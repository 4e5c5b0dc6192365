"""THUMOS14 on public two-stream I3D features (2048-d, one .npy per video).

Argument: `SIZE[,seed=N]`, SIZE tiny or full. The features are of 16 frames
every 4 frames, named <id>.npy; the annotations are ActionFormer's thumos14.json
(or any ActivityNet-style JSON with durations and fps). For other features set
data.files, see `FeatureFiles`.

    clap train --config=configs/localization_thumos.py --workdir=runs/thumos \
      --config.data.features_dir=FOLDER --config.data.annotations=FILE.json

Sizes are those of ActionFormer's public configuration for this dataset
(sequences of 2304 steps, six levels, windows of 19); the 50 epochs are those of
its first release. The normaliser, regularisation and downsampling differ: see
docs/localization.md. The head predicts the classes.
"""

import ml_collections

from configs.parts import arguments, datasets, heads, localizers

# The smallest TPU slice that the train step fits (`clap compile`), by SIZE.
SLICES = {"full": "v5e:1x1", "tiny": "v5e:1x1"}


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """The locked config; see the module for the argument."""
  args = arguments.parse_arg(arg, size="full", seed=0)
  config = ml_collections.ConfigDict()
  localizers.points(config, args)
  config.protocol = "thumos14"
  config.data = datasets.thumos()
  config.pyramid.update({"width": 512, "window_steps": 19})
  config.decode.num_kept = 200  # detections per video
  config.optimizer.learning_rate = 1e-4
  config.optimizer.warmup_percent = 10.0  # five epochs
  config.loop.epochs = 50.0
  arguments.update(config, heads.BENCHMARK_SIZES, "size", args["size"])
  return config.lock()
