"""Open-vocabulary localization on frozen features of motion_sprites.

Argument: `SIZE[,seed=N]` with SIZE tiny, demo or full. The localizer is trained
on the base classes of the split and finds the novel ones by their names. For a
result that is zero-shot for the encoder too, extract the features with one of
`configs/pretrain_sprites.py:SIZE,encoder=clap,base_only`. Its text tower has
never read the novel names and cannot separate them; a public one can:

    clap import all-MiniLM-L6-v2/ --source bert --max_text_length 24 \
      --out weights/minilm
    clap train ... --config.classes.text_model=weights/minilm \
      --config.classes.projection=learned
"""

import ml_collections

from configs.parts import arguments, datasets, heads, localizers, sweeps

# The smallest TPU slice that the train step fits (`clap compile`), by SIZE.
SLICES = {"demo": "v5e:1x1", "tiny": "v5e:1x1", "full": "v5e:1x1"}


def sweep():
  """Returns ten class splits each with 75 % and 50 % seen classes."""
  return sweeps.together(
    {
      "classes.class_split": tuple(
        f"motion_sprites_{ratio}_{number}"
        for ratio in ("75_25", "50_50")
        for number in range(10)
      )
    }
  )


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """The locked config; see the module for the argument."""
  args = arguments.parse_arg(arg, size="demo", seed=0)
  config = ml_collections.ConfigDict()
  config.trainer = "localization_open_vocabulary"
  config.protocol = "motion_sprites"  # mAP at tIoU 0.3:0.1:0.7
  config.data = datasets.motion_sprites(args["size"])
  config.classes = localizers.text_classes("motion_sprites")
  heads.small(config)
  config.decode = {"num_candidates": 400, "class_wise": False}
  config.loop = {"steps": 1000, "seed": args["seed"], "log_every_steps": 20}
  config.checkpoint = {"save_every_percent": 50.0}
  arguments.update(config, heads.SIZES, "size", args["size"])
  return config.lock()
