"""Open-vocabulary localization on frozen features of motion_sprites.

Argument: `SIZE[,seed=N]` with SIZE tiny, demo or full. The localizer is trained
on the base classes of the split; the novel ones are found by their names. For a
number that says zero-shot of the encoder too, extract the features with one of
`configs/pretrain_sprites.py:SIZE,encoder=clap,base_only`.
"""

import ml_collections

from configs import common


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """The locked config; see the module for the argument."""
  args = common.parse_arg(arg, size="demo", seed=0)
  config = ml_collections.ConfigDict()
  config.trainer = "localization_open_vocabulary"
  config.protocol = "motion_sprites"  # mAP at tIoU 0.3:0.1:0.7
  config.data = common.feature_data(args["size"])
  config.classes = {
    "class_split": "motion_sprites",  # or a .json or .list file
    "top_classes": 3,  # labels per proposal
    "text_scale": 0.0,  # of the softmax over classes; 0: the towers' own
  }
  config.pyramid = common.pyramid()
  config.head = common.point_head()
  config.loss = common.point_loss()
  config.decode = common.point_decode() | {"class_wise": False}
  config.optimizer = common.head_optimizer()
  config.loop = {"steps": 1000, "seed": args["seed"], "log_every_steps": 20}
  config.checkpoint = {"save_every_percent": 50.0, "keep": 2}
  config.mesh = {"data": -1, "fsdp": 1, "tensor": 1}
  common.update(config, common.HEAD_SIZES, "size", args["size"])
  return config.lock()
