"""ActivityNet-1.3 on public TSP features (512-d, one .npy per video).

Argument: `SIZE[,seed=N][,extracted]`, SIZE tiny or full. The features are
R(2+1)D-34 TSP's, 16 frames every 16 frames at 15 fps, named v_<id>.npy, as
ActionFormer publishes them, or with `extracted` those of `clap extract`; the
annotations are the official JSON. For other features set data.files, see
`FeatureFiles`.

    clap train --config=configs/localization_activitynet.py --workdir=DIR \
      --config.data.features_dir=FOLDER --config.data.annotations=FILE.json

Sizes and schedule are those published for ActionFormer on this dataset
(resized to 192 steps, six levels, 15 epochs). The normaliser and the weight of
the boundary loss, regularisation, crops, downsampling and suppression differ:
see docs/localization.md. The head predicts the classes.
"""

import ml_collections

from configs.parts import arguments, heads, localizers

# The smallest TPU slice that the train step fits (`clap compile`), by SIZE.
SLICES = {"full": "v5e:1x1", "tiny": "v5e:1x1"}


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """The locked config; see the module for the argument."""
  args = arguments.parse_arg(arg, size="full", seed=0, extracted=False)
  config = ml_collections.ConfigDict()
  localizers.points_on_activitynet(config, args)
  arguments.update(config, heads.BENCHMARK_SIZES, "size", args["size"])
  return config.lock()
