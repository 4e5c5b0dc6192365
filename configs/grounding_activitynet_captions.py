"""ActivityNet-Captions on public C3D features; val_1 selects, val_2 reports.

Argument: `SIZE[,kind=KIND][,seed=N]`, SIZE tiny or full, KIND pyramid, map or
detr.
The features are the 500 principal components of C3D in one HDF5 file, as the
ActivityNet challenge publishes them, resized to 256 steps; the annotations are
JSON by video. For other features set data.files.

    clap texts --model runs/pretrain --queries train.json --queries val_1.json \
      --queries val_2.json --out texts/activitynet_captions.npz
    clap train --config=configs/grounding_activitynet_captions.py \
      --workdir=runs/anet_captions

The map has 64 clips and 1,104 candidates, as in 2D-TAN and VLG-Net.
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
  config.protocol = "activitynet_captions"  # or activitynet_captions_2dtan
  folder = "annotations/activitynet_captions"
  config.data = datasets.queries_on_files(
    dataset="activitynet_captions",
    queries={
      "files": {
        name: f"{folder}/{name}.json" for name in ("train", "val_1", "val_2")
      },
      "texts": "texts/activitynet_captions.npz",
    },
    features_dir="features/activitynet_c3d",
    files={
      "names": ("sub_activitynet_v1-3.c3d.hdf5",),
      "key": "{id}/c3d_features",
      "timing": "even",
      "encoder": "c3d",
    },
    selection_split="val_1",
    eval_split="val_2",
    max_length=256,  # steps that every video is resized to
    length="resize",
  )
  config.map = {"steps_per_clip": 4, "pooling_counts": (15, 8, 8)}
  grounders.resize(config, grounders.SIZES, args)
  return config.lock()
