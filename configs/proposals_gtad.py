"""G-TAD and BMN as their public code trains and evaluates them.

Argument: `RECIPE[,seed=N]`, RECIPE a key of RECIPES below or tiny. Proposals
are of one class; --config.classifier.path names the video classifier that
labels them. docs/localization.md lists the remaining differences.

    clap train --config=configs/proposals_gtad.py:anet_tsp \
      --workdir=runs/gtad --config.data.features_dir=FOLDER \
      --config.data.annotations=FILE.json --config.classifier.path=SCORES.json
"""

import ml_collections

from configs.parts import arguments, datasets, localizers

_THUMOS = {
  "protocol": "thumos14",
  "data": datasets.thumos()
  | {
    "features_dir": "features/thumos14_tsn",
    # Features are five frames apart; a step stands for five frames.
    "files": {
      "names": ("{id}_rgb.npy", "{id}_flow.npy"),
      "timing": "frames",
      "stride_frames": 5.0,
      "window_frames": 5.0,
      "encoder": "tsn",
    },
    "batch_size": 8,
    "max_length": 256,
    "length": "windows",
    "whole_share": 0.9,
    "min_visible_share": 1e-6,  # keeps any visible part of a segment
    "crop_probability": 0.0,
    "ignored_videos": (),
  },
  "graph.max_duration": 64,
  "graph.num_bins": 16,
  "graph.num_context_bins": 16,
  "graph.map_kernel_size": 3,
  "loss.overlap_weight": 1.0,
  "loss.quality_weight": 10.0,
  "loss.boundary_span_steps": 1.0,
  "decode.num_kept": 200,
  "decode.sigma": 0.46,
  "decode.boundary_filter": False,
  "decode.max_steps": 59,  # drops candidates of 300 frames or more
  "optimizer.learning_rate": 4e-5,
  "optimizer.gradient_clip": 1.0,
}
_BMN = {
  "graph.network": "convolution",
  "graph.num_context_bins": 0,
  "graph.map_widths": (512, 128, 128, 128),
  "graph.map_kernel_size": 3,
  "decode.boundary_filter": False,
  "decode.boundary_scores": True,
  "decode.sigma": 0.4,
  "decode.decay_iou": (0.5, 0.9),
  "optimizer.learning_rate": 1e-3,
  "optimizer.decay_percents": (700 / 9,),  # after the seventh epoch
  "loop.epochs": 9.0,
}
RECIPES = {
  "anet_tsp": {},
  "bmn_anet_tsp": _BMN,
  "thumos_tsn": _THUMOS,
  # TSP's authors: one stream, projected to TSN's number of features.
  "thumos_tsp": _THUMOS
  | {
    "data.features_dir": "features/thumos14_tsp",
    "data.files.names": ("{id}.npy",),
    "data.files.encoder": "tsp",
    "optimizer.learning_rate": 4e-4,
  },
  "tiny": localizers.SUBGRAPH_SIZES["tiny"] | {"data.batch_size": 8},
}
# The smallest TPU slice that the train step fits (`clap compile`), by RECIPE.
SLICES = dict.fromkeys(RECIPES, "v5e:1x1")


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """The locked config; see the module for the argument."""
  args = arguments.parse_arg(arg, size="anet_tsp", seed=0)
  config = ml_collections.ConfigDict()
  localizers.subgraph(config, args)
  config.protocol = "activitynet"
  config.data = datasets.activitynet() | {"max_length": 100}
  config.graph = {"has_classes": False, "prior_probability": 0.5}
  config.loss = {}
  config.decode.update(
    {
      "num_candidates": 20_000,  # all candidates
      "min_score": 0.0,
      "class_wise": False,
      "ends_at_next_step": True,
    }
  )
  config.optimizer.update(
    {
      "name": "adam",
      "gradient_clip": ml_collections.config_dict.placeholder(float),
    }
  )
  config.loop.epochs = 10.0
  arguments.update(config, RECIPES, "size", args["size"])
  return config.lock()
