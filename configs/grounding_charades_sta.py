"""Charades-STA on public I3D features; selects on held-out training videos.

Argument: `SIZE[,kind=KIND][,seed=N]`, SIZE tiny or full, KIND pyramid, map or
detr.
The dataset has no validation split, and the test split must not select: a tenth
of the training videos, listed in clap_jax/data/held_out/charades_sta.txt, is
the split "selection". The features are one .npy per video, resized to 64 steps;
durations are read from the CSV files of Charades.

    clap texts --model runs/pretrain --queries charades_sta_train.txt \
      --queries charades_sta_test.txt --out texts/charades_sta.npz
    clap train --config=configs/grounding_charades_sta.py \
      --workdir=runs/charades_sta

The map has 16 clips and all 136 candidates, as in 2D-TAN.
"""

import ml_collections

from configs.parts import arguments, datasets, grounders

# The smallest TPU slice that the train step fits (`clap compile`), by SIZE.
SLICES = {"full": "v5e:1x1", "tiny": "v5e:1x1"}


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """The locked config; see the module for the argument."""
  args = arguments.parse_arg(arg, size="full", kind="pyramid", seed=0)
  config = ml_collections.ConfigDict()
  grounders.benchmark(config, args)
  config.protocol = "charades_sta"  # or charades_sta_2dtan
  folder = "annotations/charades_sta"
  config.data = datasets.queries_on_files(
    dataset="charades_sta",
    queries={
      "files": {
        name: f"{folder}/charades_sta_{name}.txt" for name in ("train", "test")
      },
      "texts": "texts/charades_sta.npz",
      "durations": (
        f"{folder}/Charades_v1_train.csv",
        f"{folder}/Charades_v1_test.csv",
      ),
      "held_out": "charades_sta",
    },
    features_dir="features/charades_i3d",
    files={
      "names": ("{id}.npy",),
      "timing": "even",
      "encoder": "i3d",
    },
    eval_split="test",
    max_length=64,  # steps that every video is resized to
    length="resize",
  )
  config.pyramid.num_levels = 5
  config.map = {"steps_per_clip": 4, "pooling_counts": (15,)}
  grounders.resize(config, grounders.SIZES, args)
  return config.lock()
