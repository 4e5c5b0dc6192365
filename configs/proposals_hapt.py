"""UCI HAPT with the sub-graph proposal localizer; trains on a CPU.

Argument: `SIZE[,seed=N]`, SIZE tiny or full. Like configs/localization_hapt.py,
with coarser windows, so that 64 steps span the longest activity:

    python -m tests.tutorials.sensor_features RawData features/hapt_coarse 32
    clap train --config=configs/proposals_hapt.py --workdir=runs/hapt_proposals
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
  config.protocol = "hapt"
  config.data = datasets.hapt(select=True) | {
    "annotations": "features/hapt_coarse/annotations.json",
    "features_dir": "features/hapt_coarse",
    "batch_size": 8,
    "max_length": 72,  # steps of 0.64 s
    "length": "windows",
    "min_crop_share": 1.0,
  }
  config.graph.update(
    {
      "width": 32,
      "num_groups": 4,
      "max_duration": 64,
      "num_bins": 8,
      "num_context_bins": 2,
      "map_widths": (32, 32, 32),
    }
  )
  config.loss = {"quality_iou": 0.7}
  config.decode.update(
    {
      "num_kept": 200,
      "sigma": 0.5,
      "classes_per_segment": 1,
      "boundary_filter": False,
    }
  )
  config.optimizer.learning_rate = 2e-3
  config.optimizer.decay_percents = (70.0,)
  config.loop.update({"steps": 400, "log_every_steps": 10})
  config.checkpoint.save_every_percent = 50.0
  arguments.update(config, localizers.SUBGRAPH_SIZES, "size", args["size"])
  return config.lock()
