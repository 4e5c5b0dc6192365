"""Localization on motion_sprites with the video tower in the loop.

Argument: `SIZE[,frozen=PART][,seed=N]`; SIZE is tiny, demo or full, PART the
frozen part of the tower: none, stem, blocks (all but the pooling) or all.
--config.tower.workdir=DIR is a finished pre-training run, which provides the
tower. --config.tower.localizer_workdir=DIR is a localization run on its frozen
features; its head starts the training, so that the first gradients of the tower
come from a trained head.
"""

import ml_collections

from configs.parts import arguments, heads

# The smallest TPU slice that the train step fits (`clap compile`), by SIZE.
SLICES = {"demo": "v5e:1x1", "tiny": "v5e:1x1", "full": "v5e:1x1"}

_STEM = r"^tower/video_tower/(embed|space_positions|time_positions)"
_BLOCKS = r"^tower/video_tower/blocks"
# Regexes on parameter names with learning-rate multipliers; 0 freezes.
FROZEN = {
  "none": {"optimizer.groups": ((r"^tower/", 0.3),)},
  "stem": {"optimizer.groups": ((_STEM, 0.0), (r"^tower/", 0.3))},
  "blocks": {
    "optimizer.groups": ((_STEM, 0.0), (_BLOCKS, 0.0), (r"^tower/", 0.3))
  },
  "all": {"optimizer.groups": ((r"^tower/", 0.0),)},
}

SIZES = {
  **heads.SIZES,
  "tiny": {
    **heads.SIZES["tiny"],
    "data.batch_size": 2,
    "tower.clips_per_step": 8,
  },
  "full": {
    **heads.SIZES["full"],
    "data.batch_size": 8,
    "data.cache_mib": 0.0,
    "data.num_threads": 16,
    "tower.clips_per_step": 16,
  },
}


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """The locked config; see the module for the argument."""
  args = arguments.parse_arg(arg, size="demo", frozen="none", seed=0)
  config = ml_collections.ConfigDict()
  config.trainer = "localization_end_to_end"
  config.protocol = "motion_sprites"  # mAP at tIoU 0.3:0.1:0.7
  config.data = {
    "dataset": f"motion_sprites/{args['size']}",
    "data_dir": "data",
    "train_split": "train",
    "selection_split": "selection",
    "eval_split": "validation",
    "stride_sec": 0.5,  # between the clips of a video
    "batch_size": 4,  # videos, over all devices
    "max_length": 64,  # clips
    "crop_probability": 0.3,  # probability of a random temporal crop
    "cache_mib": 2048.0,  # decoded videos kept in memory
    "num_threads": 2,  # decode ahead of the step
  }
  config.tower = {
    "workdir": "runs/pretrain",  # finished pre-training run
    "clips_per_step": 8,  # of each video, encoded together and recomputed
  }
  heads.small(config)
  config.decode = {"num_candidates": 400}
  config.loop = {"steps": 1000, "seed": args["seed"], "log_every_steps": 10}
  config.checkpoint = {"save_every_percent": 25.0}
  arguments.update(config, SIZES, "size", args["size"])
  arguments.update(config, FROZEN, "frozen", args["frozen"])
  return config.lock()
