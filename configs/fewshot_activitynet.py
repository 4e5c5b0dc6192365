"""Few-shot temporal localization on frozen features of ActivityNet 1.3.

Argument: `SIZE[,instances=single|multi|all][,text][,legacy_qat][,seed=N]` with
SIZE tiny or full. 160 base, 20 validation and 20 novel classes; queries and
support are videos of the validation set. The encoder of the features must be
pre-trained with sampling.class_split="activitynet_160_20_20"; encoders that
have seen the novel classes, as most public ones, are an error.
"""

import ml_collections

from configs.parts import arguments, datasets, fewshot

# The smallest TPU slice that the train step fits (`clap compile`), by SIZE.
SLICES = {"full": "v5e:1x1", "tiny": "v5e:1x1"}

SIZES = {
  "tiny": {
    "pyramid.width": 16,
    "pyramid.num_heads": 2,
    "pyramid.num_levels": 2,
    "evaluation.min_episodes": 8,
    "loop.steps": 4,
  },
  "full": {},
}


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """The locked config; see the module for the argument."""
  args = arguments.parse_arg(
    arg, size="full", instances="all", text=False, legacy_qat=False, seed=0
  )
  config = ml_collections.ConfigDict()
  config.trainer = "fewshot"
  config.protocol = "activitynet"  # mAP at tIoU 0.5:0.05:0.95
  config.class_split = "activitynet_160_20_20"
  config.data = datasets.motion_sprites("")
  config.data.dataset = "activitynet/localization"
  config.data.train_split = "train"
  config.data.selection_split = "train"  # uses its validation classes
  config.data.eval_split = "validation"
  config.data.max_length = 256  # snippets
  fewshot.episodes(config, text=args["text"])
  config.episodes.instances = args["instances"]
  config.evaluation.instances = (args["instances"],)
  config.loop = {"steps": 6000, "seed": args["seed"], "log_every_steps": 50}
  config.pyramid.width = 256
  config.pyramid.num_levels = 6
  arguments.update(config, SIZES, "size", args["size"])
  fewshot.legacy_qat(config, args["legacy_qat"])
  return config.lock()
