"""THUMOS14 on public two-stream I3D features (2048-d, one .npy per video).

Argument: `SIZE[,seed=N]`, SIZE tiny or full. The features are of 16 frames
every 4 frames, named <id>.npy; the annotations are ActionFormer's thumos14.json
(or any JSON of ActivityNet's form with durations and fps). Other features: say
how they lie in data.files, see `FeatureFiles`.

    clap train --config=configs/localization_thumos.py --workdir=runs/thumos \
      --config.data.features_dir=FOLDER --config.data.annotations=FILE.json

The hyper-parameters are those of ActionFormer's public configuration for this
data set (sequences of 2304 steps, six levels, windows of 19, 50 epochs); the
classes are the head's own.
"""

import ml_collections

from configs import common


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """The locked config; see the module for the argument."""
  args = common.parse_arg(arg, size="full", seed=0)
  config = ml_collections.ConfigDict()
  config.trainer = "localization"
  config.localizer = "points"
  config.protocol = "thumos14"
  config.data = common.thumos_features()
  config.pyramid = common.pyramid() | {
    "width": 512,
    "num_levels": 6,
    "block": "attention",
    "num_stem_convs": 2,
    "num_stem_blocks": 2,
    "window_steps": 19,
    "num_heads": 4,
    "mlp_ratio": 4.0,
    "dropout_rate": 0.1,
  }
  config.head = {
    "num_convs": 2,
    "kernel_size": 3,  # steps
    "prior_probability": 0.01,
    "dropout_rate": 0.0,
  }
  config.loss = common.point_loss()
  config.decode = {
    "num_kept": 200,  # detections per video
    "num_candidates": 2000,
    "sigma": 0.5,  # of the Gaussian soft-NMS
    "min_score": 0.001,
    "min_length": 0.05,  # grid units
    "class_wise": True,
    "vote_iou": 0.0,
  }
  config.optimizer = common.head_optimizer() | {
    "learning_rate": 1e-4,
    "weight_decay": 0.05,
    "warmup_percent": 10.0,  # five epochs
    "ema_decay": 0.999,
  }
  config.loop = {"epochs": 50.0, "seed": args["seed"], "log_every_steps": 50}
  config.checkpoint = {"save_every_percent": 20.0, "keep": 2}
  config.mesh = {"data": -1, "fsdp": 1, "tensor": 1}
  common.update(config, common.BENCHMARK_SIZES, "size", args["size"])
  return config.lock()
