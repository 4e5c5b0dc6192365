"""Temporal action localization on frozen features of motion_sprites.

Argument: `SIZE[,seed=N]` with SIZE tiny, demo or full; all run on a CPU.
"""

import ml_collections

from configs.parts import arguments, datasets, heads, sweeps

# The smallest TPU slice that the train step fits (`clap compile`), by SIZE.
SLICES = {"demo": "v5e:1x1", "tiny": "v5e:1x1", "full": "v5e:1x1"}


def sweep():
  """Yields the runs of `clap sweep`: overrides of the config, one dict each."""
  return sweeps.grid(
    {"optimizer.learning_rate": (3e-4, 1e-3, 3e-3), "loop.seed": (0, 1)}
  )


def space():
  """Returns the search space of `clap sweep --trials N`."""
  return {
    "optimizer.learning_rate": ("log_uniform", 1e-4, 1e-2),
    "optimizer.weight_decay": ("log_uniform", 1e-3, 0.3),
    "pyramid.num_stem_blocks": (0, 1, 2),
  }


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """The locked config; see the module for the argument."""
  args = arguments.parse_arg(arg, size="demo", seed=0)
  config = ml_collections.ConfigDict()
  config.trainer = "localization"
  config.protocol = "motion_sprites"  # mAP at tIoU 0.3:0.1:0.7
  config.data = datasets.motion_sprites(args["size"])
  heads.small(config)
  config.decode = {"num_candidates": 400}
  config.loop = {"steps": 1000, "seed": args["seed"], "log_every_steps": 20}
  config.checkpoint = {"save_every_percent": 50.0}
  arguments.update(config, heads.SIZES, "size", args["size"])
  return config.lock()
