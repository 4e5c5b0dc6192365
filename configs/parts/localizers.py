"""Adds the sections of the anchor-free and the sub-graph localizer."""

from configs.parts import datasets, heads


def points(config, args) -> None:
  """Adds the sections of the anchor-free localizer that benchmarks share.

  They are common to ActionFormer's public configurations; the benchmark's file
  adds data, protocol, duration and differences.
  """
  config.trainer = "localization"
  config.pyramid = {
    "num_levels": 6,
    "num_stem_blocks": 2,
    "mlp_ratio": 4.0,  # hidden width / outer width
  }
  config.head = {}
  config.decode = {"num_candidates": 2000}
  config.optimizer = heads.optimizer() | {"ema_decay": 0.999}
  _run(config, args)


def points_on_own_features(config, args) -> None:
  """Adds the sections of a small anchor-free localizer on unscaled features.

  It trains on a CPU. The caller adds data and protocol.
  """
  config.trainer = "localization"
  config.pyramid = {
    "width": 64,
    "num_levels": 5,
    "block": "conv",
    "window_steps": 9,
    "dropout_rate": 0.2,
    "normalize_input": False,  # features are standardized instead
  }
  config.head = {"num_convs": 1, "dropout_rate": 0.2}
  config.decode = {"num_kept": 200}  # detections per recording
  config.optimizer = heads.optimizer()
  config.loop = {"steps": 800, "seed": args["seed"], "log_every_steps": 50}
  config.checkpoint = {"save_every_percent": 50.0}


def points_on_activitynet(config, args) -> None:
  """Adds all sections of the anchor-free localizer on ActivityNet-1.3."""
  points(config, args)
  config.protocol = "activitynet"
  config.data = datasets.activitynet(extracted=args["extracted"])
  config.pyramid.update(
    {"width": 256, "window_steps": 7, "use_positions": True}
  )
  config.loss = {"label_smoothing": 0.1}
  config.decode.update({"sigma": 0.75, "vote_iou": 0.9})
  config.optimizer.warmup_percent = 33.3  # five epochs
  config.loop.epochs = 15.0


def subgraph(config, args) -> None:
  """Adds the sections of the sub-graph localizer that benchmarks share.

  The dataclasses' defaults are G-TAD's settings for ActivityNet; the
  benchmark's file adds data, protocol, duration and differences.
  """
  config.trainer = "localization"
  config.localizer = "subgraph"
  config.graph = {}
  config.decode = {"sigma": 0.8, "min_score": 0.0001}
  config.optimizer = {
    "learning_rate": 4e-3,
    "weight_decay": 1e-4,
    "schedule": "step",
    "decay_percents": (50.0,),
  }
  _run(config, args)


def _run(config, args) -> None:
  config.loop = {"seed": args["seed"], "log_every_steps": 50}
  config.checkpoint = {"save_every_percent": 20.0}


# Sizes of the sub-graph localizer; "full" uses the values of the files.
SUBGRAPH_SIZES = {
  "tiny": {
    "graph.width": 16,
    "graph.num_groups": 4,
    "graph.max_duration": 12,
    "graph.num_bins": 4,
    "graph.num_context_bins": 2,
    "graph.map_widths": (16, 8, 8),
    "data.batch_size": 8,
    "data.max_length": 16,
    "loop.steps": 4,
  },
  "full": {},
}


def text_classes(class_split: str) -> dict:
  """Returns the sections of open-vocabulary localization."""
  return {
    "class_split": class_split,  # a name, or a .json or .list file
    "top_classes": 0,  # labels per proposal; 0: all
    "text_scale": 0.0,  # scale of the softmax over classes; 0: the towers'
  }
