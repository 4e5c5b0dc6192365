"""Video language grounding on frozen features of motion_sprites.

Argument: `SIZE[,kind=KIND][,seed=N]` with SIZE tiny, demo or full, all of which
run on a CPU, and KIND pyramid (anchor-free) or map (two-dimensional map).
"""

import ml_collections

from configs import common


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """The locked config; see the module for the argument."""
  args = common.parse_arg(arg, size="demo", kind="pyramid", seed=0)
  config = ml_collections.ConfigDict()
  config.trainer = "grounding"
  config.protocol = "motion_sprites"  # R@1, R@5 at tIoU 0.3, 0.5, 0.7
  config.kind = args["kind"]  # pyramid | map
  config.data = common.feature_data(args["size"]) | {
    "batch_size": 8,  # videos
    "queries_per_video": 3,
    "absent_per_video": 2,  # queries of other videos
  }
  config.pyramid = common.pyramid()
  config.fusion = {
    "num_text_layers": 1,
    "num_fusion_layers": 1,
    "num_heads": 4,
    "mlp_ratio": 2.0,  # hidden over outer width
    "dropout_rate": 0.1,
  }
  config.head = {
    "num_convs": 1,
    "kernel_size": 3,  # steps
    "prior_probability": 0.01,
    "dropout_rate": 0.1,
  }
  config.map = {
    "steps_per_clip": 1,  # snippets
    "pooling_counts": (15, 8, 8),  # lengths per level of the candidates
    "pooling": "attention",  # attention | max
    "num_graph_layers": 1,
    "num_neighbours": 7,
    "num_map_convs": 0,
    "map_kernel_size": 3,  # cells
    "refine": True,  # regress the ends beyond the grid
  }
  config.loss = {
    "points": common.point_loss(),
    "listwise_weight": 0.5,
    "absence_weight": 0.1,
    "saliency_weight": 0.0,  # off: no highlights here
    "absent_moments": False,
    "map_iou_low": 0.5,
    "map_iou_high": 1.0,
    "map_positive_weight": 1.0,
    "map_shift_weight": 1.0,
  }
  config.decode = {
    "num_kept": 10,  # moments per query
    "num_candidates": 100,
    "sigma": 0.5,  # of the Gaussian soft-NMS
    "min_score": 0.0,
    "min_length": 0.05,  # grid units
    "class_wise": True,
    "vote_iou": 0.0,  # 0: no segment voting
  }
  config.optimizer = common.head_optimizer()
  config.loop = {"steps": 500, "seed": args["seed"], "log_every_steps": 20}
  config.checkpoint = {"save_every_percent": 50.0, "keep": 2}
  config.mesh = {"data": -1, "fsdp": 1, "tensor": 1}
  common.update(config, common.HEAD_SIZES, "size", args["size"])
  config.fusion.num_heads = config.pyramid.num_heads
  return config.lock()
