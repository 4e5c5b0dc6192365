"""Few-shot temporal localization on frozen features of motion_sprites.

Argument: `SIZE[,text][,legacy_qat][,seed=N]` with SIZE tiny, demo or full; all
run on a CPU. `text` adds the class name to the match; `legacy_qat` evaluates
under the older protocol. The encoder of the features must be pre-trained with
`base_only`, see pretrain_sprites.py.
"""

import ml_collections

from configs.parts import arguments, datasets, fewshot, heads

# The smallest TPU slice that the train step fits (`clap compile`), by SIZE.
SLICES = {"demo": "v5e:1x1", "tiny": "v5e:1x1", "full": "v5e:1x1"}

SIZES = heads.SIZES | {
  "tiny": heads.SIZES["tiny"]
  | {
    "data.batch_size": 8,
    "episodes.ways": 2,
    "evaluation.ways": (1,),
    "evaluation.shots": (1,),
    "evaluation.min_episodes": 8,
    "loop.steps": 4,
  },
  "full": heads.SIZES["full"] | {"data.batch_size": 32},
}


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """The locked config; see the module for the argument."""
  args = arguments.parse_arg(
    arg, size="demo", text=False, legacy_qat=False, seed=0
  )
  config = ml_collections.ConfigDict()
  config.trainer = "fewshot"
  config.protocol = "motion_sprites"  # mAP at tIoU 0.3:0.1:0.7
  config.class_split = "motion_sprites"
  config.data = datasets.motion_sprites(args["size"])
  fewshot.episodes(config, text=args["text"])
  config.loop = {"steps": 200, "seed": args["seed"], "log_every_steps": 20}
  arguments.update(config, SIZES, "size", args["size"])
  fewshot.legacy_qat(config, args["legacy_qat"])
  if args["legacy_qat"]:
    # On other datasets the protocol drops instances shorter than a tenth or a
    # fifth of the video, which are nearly all instances here.
    config.evaluation.instances = ("single",)
  return config.lock()
