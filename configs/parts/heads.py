"""Shared sections and sizes of heads on frozen features.

Like all of configs/parts, it holds only what differs from the defaults of the
dataclasses, which document every key; a flag may set any of them.
"""


def small(config) -> None:
  """Trunk, heads and optimizer, small enough to train on two CPU cores."""
  config.pyramid = {
    "width": 64,
    "block": "conv",  # conv | attention
    "num_heads": 4,  # attention heads, also in a grounder's fusion
    "num_stem_convs": 1,
    "window_steps": 7,
  }
  config.head = {"num_convs": 1, "dropout_rate": 0.1}
  config.optimizer = optimizer()


def optimizer() -> dict:
  """AdamW for heads on frozen features."""
  return {
    "learning_rate": 1e-3,
    "weight_decay": 0.05,
    "warmup_percent": 5.0,
    "ema_decay": 0.99,
  }


# Sizes of heads on motion_sprites; "demo" uses the values of their files.
SIZES = {
  "tiny": {
    "pyramid.width": 16,
    "pyramid.num_heads": 2,
    "pyramid.num_levels": 2,
    "data.batch_size": 8,
    "data.max_length": 32,
    "loop.steps": 4,
  },
  "demo": {},
  "full": {
    "pyramid.width": 256,
    "pyramid.num_levels": 5,
    "data.batch_size": 64,
    "data.max_length": 128,
    "loop.steps": 10_000,
  },
}

# Sizes of heads on a benchmark; "full" uses the values of their files.
BENCHMARK_SIZES = {
  "tiny": {
    "pyramid.width": 16,
    "pyramid.num_heads": 2,
    "pyramid.num_levels": 3,
    "data.batch_size": 8,
    "data.max_length": 32,
    "loop.steps": 4,
  },
  "full": {},
}
