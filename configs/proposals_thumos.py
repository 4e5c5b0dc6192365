"""THUMOS14 with the sub-graph proposal localizer, in windows.

Argument: `SIZE[,seed=N]`, SIZE tiny or full. Features and annotations as in
configs/localization_thumos.py. Training draws windows of 256 steps around the
actions; evaluation takes windows that overlap by half and merges what they
find. The hyper-parameters are G-TAD's for this data set with the learning rate
that TSP used; the classes are the localizer's own.
"""

import ml_collections

from configs import common


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """The locked config; see the module for the argument."""
  args = common.parse_arg(arg, size="full", seed=0)
  config = ml_collections.ConfigDict()
  config.trainer = "localization"
  config.localizer = "subgraph"
  config.protocol = "thumos14"
  config.data = common.thumos_features() | {
    "batch_size": 8,
    "max_length": 256,
    "length": "windows",
    "min_crop_share": 1.0,
  }
  config.graph = common.graph() | {
    "max_duration": 64,
    "num_bins": 16,
    "num_context_bins": 16,
    "map_kernel_size": 3,
  }
  config.loss = common.proposal_loss() | {
    "overlap_weight": 1.0,
    "quality_weight": 10.0,
  }
  config.decode = {
    "num_kept": 200,  # detections per video
    "num_candidates": 1000,
    "sigma": 0.46,  # of the Gaussian soft-NMS
    "min_score": 0.0001,
    "class_wise": True,
    "vote_iou": 0.0,
    "classes_per_segment": 2,
    "boundary_filter": False,
  }
  config.optimizer = {
    "learning_rate": 4e-4,
    "weight_decay": 1e-4,
    "schedule": "step",
    "decay_after_percent": 50.0,
    "gradient_clip": 1.0,  # global norm
  }
  config.loop = {"steps": 3000, "seed": args["seed"], "log_every_steps": 50}
  config.checkpoint = {"save_every_percent": 20.0, "keep": 2}
  config.mesh = {"data": -1, "fsdp": 1, "tensor": 1}
  common.update(config, common.GRAPH_SIZES, "size", args["size"])
  return config.lock()
