"""Temporal action localization on features and annotations of your own.

Argument: `SIZE[,dataset=NAME][,seed=N]`, SIZE tiny or full, NAME a key of
DATASETS below, which sets protocol and timing (default: own). Flags set every
key, so that no config file has to be written.

    clap train --config=configs/localization_features.py --workdir=runs/own \
      --config.data.annotations=FILE --config.data.features_dir=FOLDER \
      --config.data.files.names={id}.npy --config.data.files.timing=frames \
      --config.data.files.fps=30 --config.data.files.stride_frames=4 \
      --config.data.files.window_frames=16

The annotations are ActivityNet-style JSON or a table with the columns video,
start, end, label, subset and video_duration, in seconds. `data.files` sets the
names and timing of the features, see data/feature_files.py. `timing` is
"stored" for files of `clap extract`; "frames" for a stride in frames, or in
seconds with fps 1; "even" for features spread evenly over each video.
"""

import ml_collections

from configs.parts import arguments, datasets, heads, localizers

_SLOWFAST = {  # Ego4D: 32 frames every 16 frames at 30 fps
  "data.files": {
    "names": ("{id}.npy",),
    "timing": "frames",
    "fps": 30.0,
    "stride_frames": 16.0,
    "window_frames": 32.0,
    "encoder": "slowfast",
  },
}
# What differs by dataset; JSON of `clap convert annotations --from`.
DATASETS = {
  "own": {},
  "ego4d_mq": _SLOWFAST | {"protocol": "ego4d_mq", "data.max_length": 1024},
  "epic_sounds": {"protocol": "epic_sounds", "data.max_length": 2048},
  "fineaction": {"protocol": "fineaction"},
}
# The smallest TPU slice that the train step fits (`clap compile`), by SIZE.
SLICES = {"full": "v5e:1x1", "tiny": "v5e:1x1"}


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """The locked config; see the module for the argument."""
  args = arguments.parse_arg(arg, size="full", dataset="own", seed=0)
  config = ml_collections.ConfigDict()
  localizers.points_on_own_features(config, args)
  config.protocol = "thumos14"  # mAP at tIoU 0.3:0.1:0.7
  config.data = datasets.own(standardize=True)
  arguments.update(config, DATASETS, "dataset", args["dataset"])
  arguments.update(config, heads.BENCHMARK_SIZES, "size", args["size"])
  return config.lock()
