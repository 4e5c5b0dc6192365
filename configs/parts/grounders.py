"""Adds the sections of grounders: pyramid, map and detr."""

from configs.parts import arguments, heads


def small(config, args) -> None:
  """Adds the sections of a grounder that trains on two CPU cores."""
  config.trainer = "grounding"
  config.kind = args["kind"]  # pyramid | map | detr
  heads.small(config)
  config.loss = loss()
  config.decode = {
    "num_kept": 10,  # moments per query
    "num_candidates": 100,
    "min_score": 0.0,
  }
  if args["kind"] == "detr":
    config.detr = {
      "width": 64,
      "num_heads": 4,
      "mlp_width": 256,
      "input_dropout_rate": 0.1,
    }
    # Windows have no annotators' scores; use queries of other videos.
    config.loss = {"absent_moments": True, "detr": {"annotated_pairs": False}}
    config.decode = detr_decode()
    config.optimizer.weight_decay = 1e-4
  config.checkpoint = {"save_every_percent": 50.0}


def loss() -> dict:
  """Returns the loss of the pyramid and the map."""
  return {"listwise_weight": 0.5}


def detr_decode() -> dict:
  """Returns the decoding of detr, which keeps every moment unchanged."""
  return {
    "num_kept": 10,  # moments per query
    "num_candidates": 10,
    "sigma": 0.0,
    "min_score": 0.0,
    "min_length": 0.0,
  }


def _moment_detr(config, args) -> None:
  """Adds the sections of Moment-DETR as published, without data.

  Source: the defaults of the public program, and its train.sh.
  """
  config.detr = {
    "width": 256,
    "num_heads": 8,
    "num_encoder_layers": 2,
    "num_decoder_layers": 2,
    "mlp_width": 1024,
    "norm_first": False,
    "num_moments": 10,
    "num_projections": 2,
    "dropout_rate": 0.1,
    "input_dropout_rate": 0.5,
    "text_positions": False,
    "max_text_length": 32,
    "normalize_text": True,
    "stream_widths": (),
    "time_channels": True,
  }
  config.loss = {
    "detr": {
      "span_weight": 10.0,
      "iou_weight": 1.0,
      "label_weight": 4.0,
      "saliency_weight": 1.0,
      "background_weight": 0.1,
      "saliency_margin": 0.2,
      "max_windows": 5,
      "annotated_pairs": False,  # there are no annotated highlights
    }
  }
  config.decode = detr_decode()
  config.optimizer = {
    "learning_rate": 1e-4,
    "weight_decay": 1e-4,
    "schedule": "constant",  # the first decay is after 400 epochs
    "gradient_clip": 0.1,
  }
  config.loop = {"epochs": 200.0, "seed": args["seed"], "log_every_steps": 50}


def benchmark(config, args) -> None:
  """Adds the sections of a benchmark's grounder, without data and protocol.

  Width, learning rate and window are those of SnAG on TACoS; SnAG differs on
  other benchmarks and has five text layers. The benchmark's file sets the map's
  clips and candidates. detr is Moment-DETR as on QVHighlights.
  """
  config.trainer = "grounding"
  config.kind = args["kind"]  # pyramid | map | detr
  config.pyramid = {"width": 256, "num_levels": 6}
  config.fusion = {"num_text_layers": 2}
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
  if args["kind"] == "detr":
    _moment_detr(config, args)


# "full" uses the values of the benchmarks' files.
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

# The same for kind=detr.
_DETR_SIZES = {
  "tiny": {"detr.width": 16, "detr.num_heads": 2, "detr.mlp_width": 32},
  "demo": {},
  "full": {},
}


def resize(config, table: dict, args) -> None:
  """Applies the row of a size table that the config's argument names."""
  arguments.update(config, table, "size", args["size"])
  if config.kind == "detr":
    arguments.override(config, _DETR_SIZES[args["size"]])
