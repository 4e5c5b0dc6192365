"""TACoS on public C3D features; val selects, test reports.

Argument: `SIZE[,kind=KIND][,seed=N]`, SIZE tiny or full, KIND pyramid, map or
detr.
The videos are minutes long and have over a hundred queries each. The features
are one HDF5 file of all videos, 16 frames every 16 frames at 29.4 fps.

    clap texts --model runs/pretrain --queries train.json --queries val.json \
      --queries test.json --out texts/tacos.npz
    clap train --config=configs/grounding_tacos.py --workdir=runs/tacos

The pyramid reads whole sequences, map and detr windows of 256 steps; the map
has 3,101 candidates, as VLG-Net for 256 clips.
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
  config.protocol = "tacos"  # or tacos_2dtan
  folder = "annotations/tacos"
  config.data = datasets.queries_on_files(
    dataset="tacos",
    queries={
      "files": {
        name: f"{folder}/{name}.json" for name in ("train", "val", "test")
      },
      "texts": "texts/tacos.npz",
    },
    features_dir="features/tacos_c3d",
    files={
      "names": ("tall_c3d_features.hdf5",),
      "key": "{id}.avi",
      "timing": "frames",
      "fps": 29.4,
      "stride_frames": 16.0,
      "window_frames": 16.0,
      "encoder": "c3d",
    },
    selection_split="val",
    eval_split="test",
    batch_size=4,  # videos
    queries_per_video=32,
    absent_per_video=8,
    # The map reads short windows, the pyramid most videos whole.
    max_length=2048 if args["kind"] == "pyramid" else 256,
  )
  config.pyramid.num_levels = 8
  config.map = {"pooling_counts": (5, 8, 8, 8)}
  config.loop = {"epochs": 120.0, "seed": args["seed"], "log_every_steps": 20}
  grounders.resize(config, grounders.SIZES, args)
  return config.lock()
