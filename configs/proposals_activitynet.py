"""ActivityNet-1.3 with the sub-graph proposal localizer.

Argument: `SIZE[,seed=N][,extracted]`, SIZE tiny or full. Features and
annotations as in configs/localization_activitynet.py, every video resized to
100 steps. Sizes, learning rate and schedule are G-TAD's; weight decay, clipping
and the kept checkpoint differ, see docs/localization.md. The localizer predicts
the classes, two per candidate.
"""

import ml_collections

from configs.parts import arguments, datasets, localizers

# The smallest TPU slice that the train step fits (`clap compile`), by SIZE.
SLICES = {"full": "v5e:1x1", "tiny": "v5e:1x1"}


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """The locked config; see the module for the argument."""
  args = arguments.parse_arg(arg, size="full", seed=0, extracted=False)
  config = ml_collections.ConfigDict()
  localizers.subgraph(config, args)
  config.protocol = "activitynet"
  config.data = datasets.activitynet(extracted=args["extracted"]) | {
    "max_length": 100
  }
  config.loop.epochs = 10.0
  arguments.update(config, localizers.SUBGRAPH_SIZES, "size", args["size"])
  return config.lock()
