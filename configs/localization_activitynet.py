"""ActivityNet-1.3 on public TSP features (512-d, one .npy per video).

Argument: `SIZE[,seed=N]`, SIZE tiny or full. The features are R(2+1)D-34 TSP's,
16 frames every 16 frames at 15 fps, named v_<id>.npy, as ActionFormer publishes
them; the annotations are the official JSON. Other features: say how they lie in
data.files, see `FeatureFiles`.

    clap train --config=configs/localization_activitynet.py --workdir=DIR \
      --config.data.features_dir=FOLDER --config.data.annotations=FILE.json

The pyramid's hyper-parameters are those published for ActionFormer on this
data set (resized to 192 steps, six levels, 15 epochs); the classes are the
head's own.
"""

import ml_collections

from configs import common


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """The locked config; see the module for the argument."""
  args = common.parse_arg(arg, size="full", seed=0)
  config = ml_collections.ConfigDict()
  config.trainer = "localization"
  config.localizer = "points"
  config.protocol = "activitynet"
  config.data = common.activitynet_features()
  config.pyramid = common.pyramid() | {
    "width": 256,
    "num_levels": 6,
    "block": "attention",
    "num_stem_convs": 2,
    "num_stem_blocks": 2,
    "window_steps": 7,
    "num_heads": 4,
    "mlp_ratio": 4.0,
    "use_positions": True,
    "dropout_rate": 0.1,
  }
  config.head = {
    "num_convs": 2,
    "kernel_size": 3,  # steps
    "prior_probability": 0.01,
    "dropout_rate": 0.0,
  }
  config.loss = common.point_loss() | {"label_smoothing": 0.1}
  config.decode = {
    "num_kept": 100,  # detections per video
    "num_candidates": 2000,
    "sigma": 0.75,  # of the Gaussian soft-NMS
    "min_score": 0.001,
    "min_length": 0.05,  # grid units
    "class_wise": True,
    "vote_iou": 0.9,
  }
  config.optimizer = common.head_optimizer() | {
    "learning_rate": 1e-3,
    "weight_decay": 0.05,
    "warmup_percent": 33.3,  # five epochs
    "ema_decay": 0.999,
  }
  config.loop = {"epochs": 15.0, "seed": args["seed"], "log_every_steps": 50}
  config.checkpoint = {"save_every_percent": 20.0, "keep": 2}
  config.mesh = {"data": -1, "fsdp": 1, "tensor": 1}
  common.update(config, common.BENCHMARK_SIZES, "size", args["size"])
  return config.lock()
