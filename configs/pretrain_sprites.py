"""Post-pre-training of both towers on motion_sprites.

Argument: `SIZE[,encoder=NAME][,seed=N][,base_only]`; SIZE is tiny, demo or
full, NAME a row of the comparison: random, tac, tsp, clip, clap. `tiny` and
`demo` run on two CPU cores, `full` on four v5e chips, where it takes 9,268 of
16,128 MiB each (`clap compile`). `base_only` hides the validation and novel
classes of few-shot localization.
"""

import ml_collections

from configs.parts import arguments, pretraining, sweeps

# The smallest TPU slice that the train step fits (`clap compile`), by SIZE.
SLICES = {"demo": "v5e:1x1", "tiny": "v5e:1x1", "full": "v5e:2x2"}

SIZES = {
  "tiny": {
    "clip.image_size": 32,
    "model.video_size": "micro",
    "model.text_size": "micro",
    "model.projection_width": 16,
    "data.batch_size": 8,
    "loop.steps": 4,
    "checkpoint.save_every_steps": 2,
  },
  "demo": {},
  "full": {
    "clip.image_size": 112,
    "model.video_size": "S",
    "model.text_size": "S",
    "model.patch": (2, 16, 16),
    "model.projection_width": 512,
    "model.dtype": "bfloat16",
    "data.batch_size": 1024,
    "data.cache_mib": 0.0,
    "optimizer.learning_rate": 5e-4,
    "loop.steps": 20_000,
  },
}


def sweep():
  """Yields the runs of `clap sweep`: overrides of the config, one dict each."""
  return sweeps.grid(
    {"optimizer.learning_rate": (1e-3, 2e-3, 4e-3), "loop.seed": (0, 1)}
  )


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """The locked config; see the module for the argument."""
  args = arguments.parse_arg(
    arg, size="demo", encoder="clap", seed=0, base_only=False
  )
  config = pretraining.pretraining(
    dataset=f"motion_sprites/{args['size']}",
    class_split="motion_sprites" if args["base_only"] else "",
    encoder=args["encoder"],
    seed=args["seed"],
  )
  arguments.update(config, SIZES, "size", args["size"])
  arguments.update(config, pretraining.ENCODERS, "encoder", args["encoder"])
  return config.lock()
