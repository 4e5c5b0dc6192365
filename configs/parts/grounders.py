"""Both kinds of grounders."""

from configs.parts import heads


def small(config, args) -> None:
  """The sections of a grounder that trains on two CPU cores."""
  config.trainer = "grounding"
  config.kind = args["kind"]  # pyramid | map
  heads.small(config)
  config.loss = loss()
  config.decode = {
    "num_kept": 10,  # moments per query
    "num_candidates": 100,
    "min_score": 0.0,
  }
  config.checkpoint = {"save_every_percent": 50.0}


def loss() -> dict:
  """The loss of both kinds."""
  return {"listwise_weight": 0.5, "saliency_weight": 0.0}


def benchmark(config, args) -> None:
  """The sections of a benchmark's grounder but its data and its protocol.

  Width, learning rate and window are those of SnAG on TACoS, which has others
  elsewhere and five text layers; the map's clips and candidates stand in the
  benchmark's own file.
  """
  config.trainer = "grounding"
  config.kind = args["kind"]  # pyramid | map
  config.pyramid = {"width": 256, "num_levels": 6, "dropout_rate": 0.1}
  config.fusion = {"num_text_layers": 2, "dropout_rate": 0.1}
  config.head = {"dropout_rate": 0.0}
  config.loss = loss()
  config.decode = {
    "num_kept": 5,  # moments per query
    "num_candidates": 2000,
    "sigma": 0.9,
  }
  config.optimizer = heads.optimizer() | {
    "learning_rate": 1e-3 if args["kind"] == "pyramid" else 2e-4,
    "ema_decay": 0.999,
  }
  config.loop = {"epochs": 15.0, "seed": args["seed"], "log_every_steps": 50}
  config.checkpoint = {"save_every_percent": 20.0}


# "full" is what the benchmarks' files say.
SIZES = {
  "tiny": {
    "pyramid.width": 16,
    "pyramid.num_heads": 2,
    "pyramid.num_levels": 2,
    "fusion.num_heads": 2,
    "data.batch_size": 2,
    "loop.steps": 4,
  },
  "full": {},
}
