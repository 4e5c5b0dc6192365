"""Post-pre-training of both towers on ActivityNet 1.3 with its captions.

Argument: `SIZE[,encoder=NAME][,seed=N][,tsp_recipe]`. SIZE is full (R(2+1)D-34,
TSP's encoder), transformer (ViT-B) or tiny; NAME a row of the comparison, as in
configs/pretrain_sprites.py. You supply the videos.

    clap import r2plus1d_34.pth --source r2plus1d --out weights/ig65m
    clap train --config=configs/pretrain_activitynet.py \
      --config.start.imported=weights/ig65m --workdir=runs/clap_anet

Run `clap build` and `clap tokenizer` first, see docs/pretraining.md.

Clips are TSP's: 16 frames at 15 fps, resized to 128 x 171, cropped to a square
of 112. The stem of R(2+1)D is frozen, and its other layers learn ten times
slower than heads and text tower. The paper's hyper-parameters are not public;
these are untuned and have not been trained at this size. A step of full takes
8,739 of 16,128 MiB on each of eight v5e chips, or 19,958 on each of four;
transformer takes 11,295 on one (`clap compile`).

`tsp_recipe` uses TSP's published schedule: SGD, a batch of 64 (for two GPUs)
with statistics per 32 clips, eight epochs of about 2,436 steps, two of them
warm-up, and a learning rate divided by 100 after the fourth and the sixth. With
`encoder=tsp` it is the TSP baseline, except for its global video feature,
bfloat16, norm scales, which are not decayed, and clips: TSP draws five per
segment and epoch from the dataset without captions.
"""

import ml_collections

from configs.parts import arguments, pretraining

# The smallest TPU slice that the train step fits (`clap compile`), by SIZE.
SLICES = {"full": "v5e:2x4", "transformer": "v5e:1x1", "tiny": "v5e:1x1"}

SIZES = {
  "full": {
    "model.video_tower": "r2plus1d_34",
    "model.motion_gain": 0.0,
    "model.batch_norm_groups": 8,  # 32 clips each
    "optimizer.groups": (("video_tower/stem", 0.0), ("video_tower/", 0.1)),
  },
  "transformer": {"model.video_size": "B", "model.patch": (2, 16, 16)},
  "tiny": {
    "clip.image_size": 32,
    "clip.resize": "squash",
    "model.video_tower": "r2plus1d_micro",
    "model.motion_gain": 0.0,
    "model.text_size": "micro",
    "model.projection_width": 16,
    "model.dtype": "float32",
    "data.batch_size": 8,
    "data.num_processes": 0,
    "loop.steps": 4,
    "checkpoint.save_every_percent": 50.0,
  },
}

# Differences from a small run on motion_sprites.
_DATASET = {
  # Captions of two annotators for the same videos; like grounding, select on
  # the first and test on the second.
  "data.selection_split": "val_1",
  "data.eval_split": "val_2",
  "data.batch_size": 256,
  "data.cache_mib": 0.0,
  "clip.clip_sec": 16 / 15,
  "clip.image_size": 112,
  "clip.resize": "tsp",
  "augment.shift_px": 0,  # the square is cut out at random
  "model.text_size": "S",
  "model.projection_width": 512,
  "model.dtype": "bfloat16",
  "optimizer.learning_rate": 5e-4,
  "optimizer.groups": (),
  "loop.steps": 20_000,
}

# Sources: TSP's train/opts.py and train_tsp_on_activitynet.sh; a learning rate
# of 0.004 for heads and 0.0002 for the residual layers at 64 clips.
_TSP_RECIPE = {
  "data.batch_size": 64,
  "model.batch_norm_groups": 2,
  "augment.flip_probability": 0.5,
  "optimizer.name": "sgd",
  "optimizer.learning_rate": 4e-3,
  "optimizer.b1": 0.9,
  "optimizer.weight_decay": 5e-3,
  "optimizer.warmup_percent": 25.0,
  "optimizer.schedule": "step",
  "optimizer.decay_percents": (50.0, 75.0),
  "optimizer.decay_factor": 0.01,
  "optimizer.gradient_clip": None,
  "optimizer.groups": (("video_tower/stem", 0.0), ("video_tower/", 0.05)),
  "loop.steps": 19_488,
}


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """The locked config; see the module for the argument."""
  args = arguments.parse_arg(
    arg, size="full", encoder="clap", seed=0, tsp_recipe=False
  )
  config = pretraining.pretraining(
    dataset="activitynet/captions",
    encoder=args["encoder"],
    seed=args["seed"],
  )
  arguments.override(config, _DATASET)
  arguments.update(config, SIZES, "size", args["size"])
  if args["tsp_recipe"]:
    if args["size"] != "full":
      raise ValueError(
        f"tsp_recipe is for R(2+1)D-34, size full; got {args['size']!r}."
      )
    arguments.override(config, _TSP_RECIPE)
  arguments.update(config, pretraining.ENCODERS, "encoder", args["encoder"])
  return config.lock()
