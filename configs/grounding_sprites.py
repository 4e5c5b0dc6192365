"""Video language grounding on frozen features of motion_sprites.

Argument: `SIZE[,kind=KIND][,seed=N]` with SIZE tiny, demo or full, all of which
run on a CPU, and KIND pyramid (anchor-free) or map (two-dimensional map).
"""

import ml_collections

from configs import common

# The smallest TPU slice that the train step fits (`clap compile`), by SIZE.
SLICES = {"demo": "v5e:1x1", "tiny": "v5e:1x1", "full": "v5e:1x1"}


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
  config.fusion = common.late_fusion()
  config.head = common.point_head()
  config.map = common.moment_map()
  config.loss = common.grounding_loss()
  config.decode = common.point_decode() | {
    "num_kept": 10,  # moments per query
    "num_candidates": 100,
    "min_score": 0.0,
  }
  config.optimizer = common.head_optimizer()
  config.loop = {"steps": 400, "seed": args["seed"], "log_every_steps": 20}
  config.checkpoint = {"save_every_percent": 50.0, "keep": 2}
  config.mesh = {"data": -1, "fsdp": 1, "tensor": 1}
  common.update(config, common.HEAD_SIZES, "size", args["size"])
  config.fusion.num_heads = config.pyramid.num_heads
  return config.lock()
