"""Defines pre-training: the rows of the comparison and a run's sections."""

from ml_collections import config_dict

# Settings of each row of the comparison; all others are shared.
ENCODERS = {
  "random": {"loop.steps": 0, "optimizer.warmup_steps": 0},
  "tac": {
    "loss.contrastive_weight": 0.0,
    "loss.class_weight": 1.0,
    "sampling.action_only": True,
  },
  "tsp": {
    "loss.contrastive_weight": 0.0,
    "loss.class_weight": 1.0,
    "loss.region_weight": 1.0,
  },
  "clip": {"loss.preset": "unmasked", "sampling.action_only": True},
  # The region loss complements the contrastive loss, since most background has
  # no text. Weights were chosen on the selection split (docs/the_claim.md).
  "clap": {
    "loss.contrastive_weight": 0.2,
    "loss.class_weight": 1.0,
    "loss.region_weight": 1.0,
    "sampling.text_source": "captions_and_labels",
    "sampling.background_share": 0.25,
    "sampling.clips_per_video": 4,
  },
}


def pretraining(
  *, dataset: str, encoder: str, seed: int, class_split: str = ""
) -> config_dict.ConfigDict:
  """Returns the config of a pre-training run on two CPU cores."""
  config = config_dict.ConfigDict()
  config.trainer = "pretrain"
  config.encoder = encoder
  config.data = {
    "dataset": dataset,
    "data_dir": "data",
    "tokenizer": "data/tokenizer.model",
    "train_split": "train",
    "selection_split": "selection",
    "eval_split": "validation",
    "batch_size": 64,  # clips, over all devices
    "cache_mib": 2048.0,  # decoded videos kept in memory
    "num_threads": 2,  # decode ahead of the step
  }
  config.clip = {
    "clip_sec": 2.0,
    "num_frames": 16,  # equally spaced in the clip
    "image_size": 64,  # px
  }
  config.sampling = {
    "text_source": "captions",  # or labels, captions_and_labels, ...
    "background_share": 0.5,  # share of background clips
    "action_only": False,
    "same_video_background": False,  # background from the action's video
    "clips_per_video": 1,  # consecutive clips from one video
    "stream": 0,  # another number draws other clips with the same seed
    "hidden_classes": (),  # names of classes to exclude
    # Class split whose base classes alone are used; "": all classes.
    "class_split": class_split,
  }
  # No flips or colour changes: captions name directions and colours.
  config.augment = {"shift_px": 4}
  config.model = {
    "video_size": "tiny",
    "text_size": "tiny",
    "patch": (4, 16, 16),  # frames, px, px; for transformers
    "projection_width": 128,
    "max_text_length": 40,  # tokens
    "motion_gain": 5.0,  # gain of differences from the clip's mean; 0: off
    "remat": True,
    "dtype": "float32",
  }
  config.loss = {
    "contrastive_weight": 1.0,
    "class_weight": 0.0,
    "region_weight": 0.0,
    "preset": "captions",  # mask rules
    "objective": "softmax",  # softmax | sigmoid
    "implementation": "auto",
  }
  config.start = {
    "workdir": "",  # run to start from; "": random parameters
    "parameters": ("video_tower/", "class_head/"),  # regexes on names
  }
  config.optimizer = {
    "learning_rate": 2e-3,
    "weight_decay": 0.05,
    "warmup_percent": 10.0,
  }
  config.loop = {"steps": 400, "seed": seed, "log_every_steps": 10}
  config.checkpoint = {"save_every_percent": 25.0}
  return config
