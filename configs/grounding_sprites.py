"""Video language grounding on frozen features of motion_sprites.

Argument: `SIZE[,kind=KIND][,seed=N]` with SIZE tiny, demo or full, all of which
run on a CPU, and KIND pyramid (anchor-free), map (two-dimensional map) or detr
(a set of moments, Moment-DETR).
"""

import ml_collections

from configs.parts import arguments, datasets, grounders, heads

# The smallest TPU slice that the train step fits (`clap compile`), by SIZE.
SLICES = {"demo": "v5e:1x1", "tiny": "v5e:1x1", "full": "v5e:1x1"}


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """The locked config; see the module for the argument."""
  args = arguments.parse_arg(arg, size="demo", kind="pyramid", seed=0)
  config = ml_collections.ConfigDict()
  grounders.small(config, args)
  config.protocol = "motion_sprites"  # R@1, R@5 at tIoU 0.3, 0.5, 0.7
  config.data = datasets.motion_sprites(args["size"]) | {
    "batch_size": 8,  # videos
    "queries_per_video": 3,
    "absent_per_video": 2,  # queries of other videos
  }
  config.loop = {"steps": 400, "seed": args["seed"], "log_every_steps": 20}
  grounders.resize(config, heads.SIZES, args)
  config.fusion = {"num_heads": config.pyramid.num_heads}
  return config.lock()
