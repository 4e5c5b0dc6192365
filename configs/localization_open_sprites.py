"""Open-vocabulary localization on frozen features of motion_sprites.

Argument: `SIZE[,seed=N]` with SIZE tiny, demo or full. The localizer is trained
on the base classes of the split; the novel ones are found by their names. For a
number that says zero-shot of the encoder too, extract the features with one of
`configs/pretrain_sprites.py:SIZE,encoder=clap,base_only`. A text tower that
never read the novel names cannot tell them; one that did may take its place:

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
  """Ten divisions of the classes each, 75 % and 50 % of them seen."""
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
