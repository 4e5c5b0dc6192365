"""Post-pre-training of both towers on motion_sprites.

Argument: `SIZE[,encoder=NAME][,seed=N][,base_only]`; SIZE is tiny, demo or
full, NAME a row of the comparison: random, tac, tsp, clip, clap. `tiny` and
`demo` run on two CPU cores, `full` on four chips of a v5e, of whose 16,128 MiB
each it takes 9,268 (`clap compile`). `base_only` hides the validation and novel
classes of few-shot localization.
"""

import ml_collections

from configs import common

# The smallest TPU slice that the train step fits (`clap compile`), by SIZE.
SLICES = {"demo": "v5e:1x1", "tiny": "v5e:1x1", "full": "v5e:2x2"}

# What each row of the comparison trains on; everything else is shared.
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
  "clap": {
    "loss.contrastive_weight": 0.5,
    "loss.class_weight": 1.0,
    "sampling.text_source": "captions_and_labels",
    "sampling.background_share": 0.25,
    "sampling.clips_per_video": 4,
  },
}

SIZES = {
  "tiny": {
    "clip.image_size": 32,
    "model.video_size": "micro",
    "model.text_size": "micro",
    "model.projection_width": 16,
    "data.batch_size": 8,
    "loop.steps": 4,
    "checkpoint.save_every_steps": 2,
  },
  "demo": {},
  "full": {
    "clip.image_size": 112,
    "model.video_size": "S",
    "model.text_size": "S",
    "model.patch": (2, 16, 16),
    "model.projection_width": 512,
    "model.dtype": "bfloat16",
    "data.batch_size": 1024,
    "data.cache_mib": 0.0,
    "data.num_threads": 16,
    "optimizer.learning_rate": 5e-4,
    "loop.steps": 20_000,
  },
}


def sweep():
  """What `clap sweep` runs: overrides of the config, one dict per run."""
  return common.grid(
    {"optimizer.learning_rate": (1e-3, 2e-3, 4e-3), "loop.seed": (0, 1)}
  )


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """The locked config; see the module for the argument."""
  args = common.parse_arg(
    arg, size="demo", encoder="clap", seed=0, base_only=False
  )
  config = ml_collections.ConfigDict()
  config.trainer = "pretrain"
  config.encoder = args["encoder"]
  config.data = {
    "dataset": f"motion_sprites/{args['size']}",
    "data_dir": "data",
    "tokenizer": "data/tokenizer.model",
    "train_split": "train",
    "selection_split": "selection",
    "eval_split": "validation",
    "batch_size": 64,  # clips, over all devices
    "cache_mib": 2048.0,  # decoded videos kept in memory
    "num_threads": 2,  # decoding ahead of the step
  }
  config.clip = {
    "clip_sec": 2.0,
    "num_frames": 16,  # equally spaced in the clip
    "image_size": 64,  # px
    "resize": "squash",  # squash | crop | tsp (128 x 171, then 112 x 112)
  }
  config.sampling = {
    "text_source": "captions",  # or labels, captions_and_labels, ...
    "background_share": 0.5,  # of all clips
    "action_only": False,
    "same_video_background": False,  # background from the action's video
    "clips_per_video": 1,  # clips in a row that come from one video
    "stream": 0,  # another number draws other clips under the same seed
    "hidden_classes": (),  # names that pre-training must not see
    # "" or a class split: its base classes alone are seen
    "class_split": "motion_sprites" if args["base_only"] else "",
  }
  config.augment = {
    "shift_px": 4,
    "flip_probability": 0.0,  # captions name directions
    "brightness": 0.0,
    "contrast": 0.0,
    "colour": 0.0,  # captions name colours
  }
  config.model = {
    "video_tower": "transformer",  # or r2plus1d_34, clip, videomae, ...
    "video_size": "tiny",  # of a transformer
    "text_tower": "transformer",  # or clip, open_clip, bert
    "text_size": "tiny",
    "patch": (4, 16, 16),  # frames, px, px; of a transformer
    "projection_width": 128,
    "max_text_length": 40,  # tokens
    "motion_gain": 5.0,  # of differences from the clip's mean; 0: colours only
    "batch_norm_groups": 1,  # parts of the batch; 1: shared by all devices
    "remat": True,
    "remat_policy": "nothing",  # kept of each block; or products
    "attention": "whole",  # whole | chunked | fused
    "query_chunk": 0,  # queries at a time, of chunked attention
    "dtype": "float32",
  }
  config.loss = {
    "contrastive_weight": 1.0,
    "class_weight": 0.0,
    "region_weight": 0.0,
    "preset": "captions",  # mask rules
    "objective": "softmax",  # softmax | sigmoid
    "implementation": "auto",
    "num_microbatches": 1,  # of the towers; the loss sees the whole batch
    # 0, or N, a power of two: the same bits on 1, 2, 4 .. N devices, slower
    "deterministic": 0,
  }
  config.start = {
    "workdir": "",  # of the run to start from; "": random parameters
    "parameters": ("video_tower/", "class_head/"),  # regexes on names
    "imported": "",  # directories of `clap import`, separated by commas
  }
  config.optimizer = {
    "learning_rate": 2e-3,
    "weight_decay": 0.05,
    "warmup_percent": 10.0,
    "gradient_clip": 1.0,  # global norm
  }
  config.loop = {
    "steps": 400,
    "seed": args["seed"],
    "log_every_steps": 10,
  }
  config.checkpoint = {"save_every_percent": 25.0, "keep": 2}
  config.mesh = {"data": -1, "fsdp": 1, "tensor": 1}
  common.update(config, SIZES, "size", args["size"])
  common.update(config, ENCODERS, "encoder", args["encoder"])
  return config.lock()
