"""UCI HAPT: twelve activities in untrimmed 50 Hz recordings of a smartphone.

Argument: `SIZE[,seed=N,all=BOOL]`, SIZE tiny or full. The features are window
statistics:

    clap sensors RawData --out features/hapt
    clap train --config=configs/localization_hapt.py --workdir=runs/hapt

The subset "validation" of the annotations is UCI's test subjects. Without
`all`, five of the training subjects are held out to choose by; with it they are
trained on and nothing is looked at during training.
"""

import ml_collections

from configs import common

# The smallest TPU slice that the train step fits (`clap compile`), by SIZE.
SLICES = {"full": "v5e:1x1", "tiny": "v5e:1x1"}


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """The locked config; see the module for the argument."""
  args = common.parse_arg(arg, size="full", seed=0, all=False)
  config = ml_collections.ConfigDict()
  config.trainer = "localization"
  config.localizer = "points"
  config.protocol = "hapt"  # mAP at tIoU 0.3:0.1:0.7
  config.data = common.hapt_features(select=not args["all"])
  config.pyramid = common.pyramid() | {
    "width": 64,
    "num_levels": 5,
    "block": "conv",
    "num_stem_convs": 2,
    "window_steps": 9,
    "dropout_rate": 0.2,
    "normalize_input": False,  # standardized instead
  }
  config.head = common.point_head() | {"dropout_rate": 0.2}
  config.loss = common.point_loss()
  config.decode = common.point_decode() | {
    "num_kept": 200,  # detections per recording
    "num_candidates": 1000,
  }
  config.optimizer = common.head_optimizer()
  config.loop = {"steps": 800, "seed": args["seed"], "log_every_steps": 50}
  config.checkpoint = {"save_every_percent": 50.0, "keep": 2}
  config.mesh = {"data": -1, "fsdp": 1, "tensor": 1}
  common.update(config, common.BENCHMARK_SIZES, "size", args["size"])
  return config.lock()
