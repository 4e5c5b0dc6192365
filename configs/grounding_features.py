"""Grounding of sentences on features and annotations of your own.

Argument: `SIZE[,kind=KIND][,dataset=NAME][,seed=N]`, SIZE tiny or full, KIND
pyramid, map or detr, NAME a key of DATASETS below (default: own). Flags set
every key, so that no config file has to be written.

    clap texts --model MODEL --queries FILE --out texts.npz
    clap train --config=configs/grounding_features.py --workdir=runs/own \
      --config.data.annotations=FILE --config.data.texts=texts.npz \
      --config.data.features_dir=FOLDER \
      --config.data.files.names={id}.npy --config.data.files.timing=frames \
      --config.data.files.fps=30 --config.data.files.stride_frames=4 \
      --config.data.files.window_frames=16

The annotations are a table with the columns video, start, end, caption, subset
and video_duration, in seconds, or ActivityNet-style JSON whose annotations have
a "caption". For annotations in a published format, set
`data.queries.files.SPLIT=FILE` per split, `data.queries.texts`, a name for the
results in `data.dataset`, and `None` for `data.annotations` and `data.texts`.
For `data.files` see configs/localization_features.py. Absence is calibrated on
`selection_split`.
"""

import ml_collections

from configs.parts import arguments, datasets, grounders, heads

# What differs by dataset; JSON of `clap convert annotations --from`.
DATASETS = {
  "own": {},
  "didemo": {
    "protocol": "didemo",
    "data.eval_split": "test",
    "data.max_length": 64,
  },
  "ego4d_nlq": {
    "protocol": "ego4d_nlq",
    "data.files": {
      "names": ("{id}.npy",),
      "timing": "frames",
      "fps": 30.0,
      "stride_frames": 16.0,
      "window_frames": 32.0,
      "encoder": "slowfast",
    },
    "data.max_length": 1024,
    "data.queries_per_video": 16,
  },
  "youcook2": {"protocol": "youcook2", "data.max_length": 512},
}
# The smallest TPU slice that the train step fits (`clap compile`), by SIZE.
SLICES = {"full": "v5e:1x1", "tiny": "v5e:1x1"}


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """The locked config; see the module for the argument."""
  args = arguments.parse_arg(
    arg, size="full", kind="pyramid", dataset="own", seed=0
  )
  config = ml_collections.ConfigDict()
  grounders.small(config, args)
  config.protocol = "charades_sta"  # R@1, R@5 at tIoU 0.3, 0.5, 0.7
  config.data = datasets.own(
    texts="texts.npz",  # written by `clap texts`
    selection_split="validation",  # calibrates absence
    queries_per_video=8,
    absent_per_video=2,  # queries of other videos
    crop_probability=0.0,
  )
  config.pyramid.num_levels = 5
  config.decode.num_candidates = 400
  config.loop = {"steps": 800, "seed": args["seed"], "log_every_steps": 50}
  arguments.update(config, DATASETS, "dataset", args["dataset"])
  grounders.resize(config, heads.BENCHMARK_SIZES, args)
  config.fusion = {"num_heads": config.pyramid.num_heads}
  return config.lock()
