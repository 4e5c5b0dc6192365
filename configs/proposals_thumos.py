"""THUMOS14 with the sub-graph proposal localizer, in windows.

Argument: `SIZE[,seed=N]`, SIZE tiny or full. Features and annotations as in
configs/localization_thumos.py. Training draws windows of 256 steps around the
actions; evaluation merges the predictions of windows that overlap by half.
Sizes are G-TAD's for this dataset, the learning rate is that of its paper; its
public code trains at a tenth of it, for ten epochs of fixed windows. See
docs/localization.md. The localizer predicts the classes.
"""

import ml_collections

from configs.parts import arguments, datasets, localizers

# The smallest TPU slice that the train step fits (`clap compile`), by SIZE.
SLICES = {"full": "v5e:1x1", "tiny": "v5e:1x1"}


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """The locked config; see the module for the argument."""
  args = arguments.parse_arg(arg, size="full", seed=0)
  config = ml_collections.ConfigDict()
  localizers.subgraph(config, args)
  config.protocol = "thumos14"
  config.data = datasets.thumos() | {
    "batch_size": 8,
    "max_length": 256,
    "length": "windows",
    "min_crop_share": 1.0,
  }
  config.graph.update(
    {
      "max_duration": 64,
      "num_bins": 16,
      "num_context_bins": 16,
      "map_kernel_size": 3,
    }
  )
  config.loss = {"overlap_weight": 1.0, "quality_weight": 10.0}
  config.decode.update(
    {"num_kept": 200, "sigma": 0.46, "boundary_filter": False}
  )
  config.optimizer.learning_rate = 4e-4
  config.loop.steps = 3000
  arguments.update(config, localizers.SUBGRAPH_SIZES, "size", args["size"])
  return config.lock()
