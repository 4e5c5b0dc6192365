"""Adds the sections of few-shot localization."""

from configs.parts import heads


def episodes(config, *, text: bool) -> None:
  """Adds few-shot localization to a config with data and class_split."""
  config.data.crop_probability = 0.0  # the videos of an episode are whole
  config.data.batch_size = 8  # episodes
  config.allow_seen_classes = False  # if True, the card states it
  # Training episodes.
  config.episodes = {"ways": 5, "shots": 1, "instances": "all"}
  config.evaluation = {
    "ways": (1, 5),
    "shots": (1, 5),
    "instances": ("all",),  # single | multi | all: segments of the class
    "min_episodes": 1000,  # per metric; rounded up to whole passes over queries
    "seed": 0,  # seed of the episodes, the same for every encoder
    "temperature": 0.1,  # temperature of the nearest prototype
    "legacy_qat": False,
  }
  heads.small(config)
  config.matcher = {"use_text": text}
  config.decode = {"num_kept": 50, "num_candidates": 400}  # per query
  config.checkpoint = {"save_every_percent": 50.0}


def legacy_qat(config, is_on: bool) -> None:
  """Evaluates under the older protocol, which is 1-way."""
  if is_on:
    config.evaluation.legacy_qat = True
    config.evaluation.ways = (1,)
