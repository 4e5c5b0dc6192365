"""Open-vocabulary ActivityNet-1.3 on public TSP features.

Argument: `SIZE[,seed=N][,extracted]`, SIZE tiny or full. Features and
annotations as in configs/localization_activitynet.py. Classes are encoded by an
imported text tower and a projection that is learned on the seen classes:

    clap import all-MiniLM-L6-v2/ --source bert --max_text_length 24 \
      --out weights/minilm
    clap sweep --config=configs/localization_open_activitynet.py --workdir=DIR \
      --config.data.features_dir=FOLDER --config.data.annotations=FILE.json

runs the public zero-shot splits, ten with 75 % and ten with 50 % seen classes:
splits/zero_shot_train_75_test_25/ActivityNet/train/split_0.list lists the seen
classes, the same file of test/ the unseen ones.
"""

import ml_collections

from configs.parts import arguments, heads, localizers, sweeps

# The smallest TPU slice that the train step fits (`clap compile`), by SIZE.
SLICES = {"full": "v5e:1x1", "tiny": "v5e:1x1"}

_LIST = "splits/zero_shot_train_{}/ActivityNet/train/split_{}.list"


def sweep():
  """Returns the public splits, ten of each ratio."""
  return sweeps.together(
    {
      "classes.class_split": tuple(
        _LIST.format(ratio, number)
        for ratio in ("75_test_25", "50_test_50")
        for number in range(10)
      )
    }
  )


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """The locked config; see the module for the argument."""
  args = arguments.parse_arg(arg, size="full", seed=0, extracted=False)
  config = ml_collections.ConfigDict()
  localizers.points_on_activitynet(config, args)
  config.trainer = "localization_open_vocabulary"
  config.decode.class_wise = False
  config.classes = localizers.text_classes("activitynet_160_20_20") | {
    "top_classes": 5,
    "text_model": "weights/minilm",
    "projection": "learned",
  }
  arguments.update(config, heads.BENCHMARK_SIZES, "size", args["size"])
  return config.lock()
