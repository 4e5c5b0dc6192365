"""UCI HAPT: twelve activities in untrimmed 50 Hz recordings of a smartphone.

Argument: `SIZE[,seed=N,all=BOOL]`, SIZE tiny or full. The features are window
statistics:

    python -m tests.tutorials.sensor_features RawData features/hapt
    clap train --config=configs/localization_hapt.py --workdir=runs/hapt

The subset "validation" of the annotations holds UCI's test subjects. Without
`all`, five training subjects are held out for selection; with `all` they are
trained on and there is no evaluation during training, as in
configs/localization_features.py with these paths and this protocol.
"""

import ml_collections

from configs.parts import arguments, datasets, heads, localizers

# The smallest TPU slice that the train step fits (`clap compile`), by SIZE.
SLICES = {"full": "v5e:1x1", "tiny": "v5e:1x1"}


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """The locked config; see the module for the argument."""
  args = arguments.parse_arg(arg, size="full", seed=0, all=False)
  config = ml_collections.ConfigDict()
  localizers.points_on_own_features(config, args)
  config.protocol = "hapt"  # mAP at tIoU 0.3:0.1:0.7
  config.data = datasets.hapt(select=not args["all"])
  arguments.update(config, heads.BENCHMARK_SIZES, "size", args["size"])
  return config.lock()
