"""ActivityNet-1.3 with the sub-graph proposal localizer.

Argument: `SIZE[,seed=N]`, SIZE tiny or full. Features and annotations as in
configs/localization_activitynet.py, every video resized to 100 steps. The
hyper-parameters are G-TAD's; the classes are the localizer's own, the best two
of each candidate.
"""

import ml_collections

from configs import common


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """The locked config; see the module for the argument."""
  args = common.parse_arg(arg, size="full", seed=0)
  config = ml_collections.ConfigDict()
  config.trainer = "localization"
  config.localizer = "subgraph"
  config.protocol = "activitynet"
  config.data = common.activitynet_features() | {"max_length": 100}
  config.graph = common.graph()
  config.loss = common.proposal_loss()
  config.decode = {
    "num_kept": 100,  # detections per video
    "num_candidates": 1000,
    "sigma": 0.8,  # of the Gaussian soft-NMS
    "min_score": 0.0001,
    "class_wise": True,
    "vote_iou": 0.0,
    "classes_per_segment": 2,
    "boundary_filter": True,
  }
  config.optimizer = {
    "learning_rate": 4e-3,
    "weight_decay": 1e-4,
    "schedule": "step",
    "decay_after_percent": 50.0,
    "gradient_clip": 1.0,  # global norm
  }
  config.loop = {"epochs": 10.0, "seed": args["seed"], "log_every_steps": 50}
  config.checkpoint = {"save_every_percent": 20.0, "keep": 2}
  config.mesh = {"data": -1, "fsdp": 1, "tensor": 1}
  common.update(config, common.GRAPH_SIZES, "size", args["size"])
  return config.lock()
