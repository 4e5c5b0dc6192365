"""ActionFormer exactly as published, on the public features of six benchmarks.

Argument: `RECIPE[,seed=N]`, RECIPE a key of RECIPES below or tiny. Each is the
public configuration of that name, key by key: see docs/heads_actionformer.md
for what each key became and what differs.

    clap train --config=configs/localization_actionformer.py:thumos_i3d \
      --workdir=runs/thumos --config.data.features_dir=FOLDER \
      --config.data.annotations=FILE.json

To start from a public checkpoint, import it with `clap import --source
actionformer` and add --config.start.imported=DIR. ActivityNet's recipes train
one class for all actions; --config.classifier.path=FILE labels them by a video
classifier.
"""

import ml_collections

from configs.parts import arguments, datasets, heads

_OVERLAPPING = (
  (0, 4),
  (2, 8),
  (4, 16),
  (8, 32),
  (16, 64),
  (32, 128),
  (64, 256),
)


def _ranges(num_levels: int) -> tuple:
  """Returns the ranges of EPIC-Kitchens and Ego4D; the coarsest is open."""
  low = _OVERLAPPING[num_levels - 1][0] if num_levels < 8 else 128
  return (*_OVERLAPPING[: num_levels - 1], (low, 10000))


_ACTIVITYNET = {
  "class_agnostic": True,
  "protocol": "activitynet",
  "data.annotations": "annotations/anet1.3_tsp_filtered.json",
  "data.features_dir": "features/activitynet_tsp",
  "data.files.names": ("v_{id}.npy",),
  "data.files.encoder": "tsp",
  "data.files.fps": 15.0,
  "data.files.stride_frames": 16.0,
  "data.train_split": "training",
  "data.eval_split": "validation",
  "data.batch_size": 16,
  "data.max_length": 192,
  "data.length": "resize",
  "model.width": 256,
  "model.head_width": 256,
  "model.windows": (7, 7, 7, 7, 7, -1),
  "model.absolute_positions": True,
  "loss.normalizer_start": 200.0,
  "loss.offset_weight": 2.0,
  "loss.label_smoothing": 0.1,
  "decode.num_kept": 100,
  "decode.sigma": 0.75,
  "decode.vote_iou": 0.9,
  "decode.class_wise": False,
  "decode.min_length": 0.001,
  "optimizer.learning_rate": 1e-3,
  "loop.epochs": 15.0,
}
_EPIC = {
  "protocol": "epic_kitchens_verb",
  "data.annotations": "annotations/epic_kitchens_100_verb.json",
  "data.features_dir": "features/epic_slowfast",
  "data.files.names": ("{id}.npz",),
  "data.files.encoder": "slowfast",
  "data.files.fps": 30.0,
  "data.files.stride_frames": 16.0,
  "data.files.window_frames": 32.0,
  "data.min_visible_share": 0.3,
  "data.train_split": "training",
  "data.eval_split": "validation",
  "model.windows": (9,) * 6,
  "model.ranges": _ranges(6),
  "loss.normalizer_start": 250.0,
  "decode.num_kept": 2000,
  "decode.num_candidates": 5000,
  "decode.sigma": 0.4,
  "loop.epochs": 21.0,
}
_EGO4D = {
  "protocol": "ego4d_mq",
  "data.annotations": "annotations/ego4d.json",
  "data.features_dir": "features/ego4d/slowfast_features",
  "data.files.encoder": "slowfast",
  "data.files.fps": 30.0,
  "data.files.stride_frames": 16.0,
  "data.files.window_frames": 32.0,
  "data.min_visible_share": 0.3,
  "data.train_split": "training",
  "data.eval_split": "validation",
  "data.max_length": 1024,
  "model.windows": (9,) * 7,
  "model.ranges": _ranges(7),
  "model.absolute_positions": True,
  "model.dropout_rate": 0.1,
  "decode.num_kept": 2000,
  "decode.num_candidates": 5000,
  "decode.sigma": 0.9,
  "loop.epochs": 15.0,
}
# Three streams, each with its own projection.
_EGO4D_TRIPLE = _EGO4D | {
  "data.features_dir": "features/ego4d",
  "model.width": 1024,
  "model.head_width": 1024,
  "model.num_heads": 16,
}
# Two streams, concatenated before the model.
_EGO4D_PAIR = _EGO4D | {
  "data.features_dir": "features/ego4d",
  "model.width": 768,
  "model.head_width": 768,
  "model.num_heads": 12,
  "model.windows": (9,) * 8,
  "model.ranges": _ranges(8),
}
RECIPES = {
  "thumos_i3d": {},
  "anet_tsp": _ACTIVITYNET,
  "anet_i3d": _ACTIVITYNET
  | {
    "data.annotations": "annotations/anet1.3_i3d_filtered.json",
    "data.features_dir": "features/activitynet_i3d",
    "data.files.encoder": "i3d",
    "data.files.fps": 25.0,
  },
  "epic_slowfast_verb": _EPIC,
  "epic_slowfast_noun": _EPIC
  | {
    "protocol": "epic_kitchens_noun",
    "data.annotations": "annotations/epic_kitchens_100_noun.json",
    "loss.label_smoothing": 0.1,
  },
  "ego4d_slowfast": _EGO4D,
  "ego4d_omnivore": _EGO4D
  | {
    "data.features_dir": "features/ego4d/omnivore_features",
    "data.files.encoder": "omnivore",
    "model.windows": (9,) * 8,
    "model.ranges": _ranges(8),
  },
  "ego4d_egovlp": _EGO4D
  | {
    "data.features_dir": "features/ego4d/egovlp_features",
    "data.files.encoder": "egovlp",
    "data.files.window_frames": 16.0,
    "model.width": 384,
    "model.head_width": 384,
    "model.windows": (9,) * 8,
    "model.ranges": _ranges(8),
  },
  "ego4d_slowfast_omnivore_egovlp": _EGO4D_TRIPLE
  | {
    "data.files.names": (
      "slowfast_features/{id}.npy",
      "omnivore_features/{id}.npy",
      "egovlp_features/{id}.npy",
    ),
    "data.files.encoder": "slowfast_omnivore_egovlp",
    "model.stream_widths": (2304, 1536, 256),
    "model.projected_widths": (384, 384, 256),
  },
  "ego4d_slowfast_egovlp": _EGO4D_PAIR
  | {
    "data.files.names": (
      "slowfast_features/{id}.npy",
      "egovlp_features/{id}.npy",
    ),
    "data.files.encoder": "slowfast_egovlp",
  },
  "ego4d_omnivore_egovlp": _EGO4D_PAIR
  | {
    "data.files.names": (
      "omnivore_features/{id}.npy",
      "egovlp_features/{id}.npy",
    ),
    "data.files.encoder": "omnivore_egovlp",
  },
  "ego4d_omnivore_egovlp_internvideo": _EGO4D_TRIPLE
  | {
    "data.files.names": (
      "omnivore_features/{id}.npy",
      "egovlp_features/{id}.npy",
      "internvideo_features/{id}.npy",
    ),
    "data.files.encoder": "omnivore_egovlp_internvideo",
    "model.stream_widths": (1536, 256, 1024),
    "model.projected_widths": (256, 384, 384),
    "model.windows": (9,) * 8,
    "model.ranges": _ranges(8),
    "decode.sigma": 2.0,
  },
  "tiny": {
    "model.width": 16,
    "model.head_width": 16,
    "model.num_heads": 2,
    "model.windows": (5, 5, -1),
    "model.ranges": ((0, 4), (4, 8), (8, 10000)),
    "data.batch_size": 8,
    "data.max_length": 32,
    "loop.steps": 4,
    "optimizer.warmup_steps": 1,
  },
}
# The smallest TPU slice that the train step fits (`clap compile`), by RECIPE.
SLICES = dict.fromkeys(RECIPES, "v5e:1x1")


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """The locked config; see the module for the argument."""
  args = arguments.parse_arg(arg, size="thumos_i3d", seed=0)
  config = ml_collections.ConfigDict()
  config.trainer = "localization"
  config.localizer = "actionformer"
  config.protocol = "thumos14"
  # Video classifier whose classes replace the head's.
  config.classifier = {"combination": "geometric_mean"}
  config.data = datasets.thumos() | {"ignored_videos": ()}
  # The defaults of the dataclasses are the recipe of THUMOS14.
  config.model = {}
  config.loss = {}
  config.decode = {"num_kept": 200}
  config.optimizer = heads.optimizer() | {
    "learning_rate": 1e-4,
    "ema_decay": 0.999,
  }
  del config.optimizer.warmup_percent
  config.optimizer.warmup_epochs = 5.0
  config.loop = {"epochs": 35.0, "seed": args["seed"], "log_every_steps": 50}
  config.checkpoint = {"save_every_percent": 20.0}
  arguments.update(config, RECIPES, "size", args["size"])
  return config.lock()
