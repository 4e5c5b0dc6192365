"""QVHighlights: moments and highlights on public SlowFast and CLIP features.

Argument: `SIZE[,kind=KIND][,seed=N]`, SIZE tiny or full, KIND pyramid, map or
detr: Moment-DETR at its published hyper-parameters, see docs/grounding.md.
A tenth of the source videos of the training split, listed in
clap_jax/data/held_out/qvhighlights.txt, selects; the validation split, or a
test file with windows, reports. The features are two .npz per clip of 150 s,
with one step every two seconds.

    clap texts --model runs/pretrain \
      --queries highlight_train_release.jsonl \
      --queries highlight_val_release.jsonl --out texts/qvhighlights.npz
    clap train --config=configs/grounding_qvhighlights.py \
      --workdir=runs/qvhighlights

detr reads the public text features, one .npz per query, and needs no
`clap texts`.

The saliency of every step is learned from the annotators' scores; the run
writes predictions.jsonl in the format of the benchmark's evaluator.
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
  config.protocol = "qvhighlights"
  folder = "annotations/qvhighlights"
  config.data = datasets.queries_on_files(
    dataset="qvhighlights",
    queries={
      "files": {
        name: f"{folder}/highlight_{name}_release.jsonl"
        for name in ("train", "val")
      },
      "texts": "texts/qvhighlights.npz",
      "held_out": "qvhighlights",
    },
    features_dir="features/qvhighlights",
    files={
      "names": ("slowfast_features/{id}.npz", "clip_features/{id}.npz"),
      "key": "features",
      "timing": "frames",
      "fps": 1.0,  # a frame stands for a second
      "stride_frames": 2.0,
      "window_frames": 2.0,
      "encoder": "slowfast+clip",
    },
    eval_split="val",
    batch_size=32,  # clips, most of them with one query
    queries_per_video=2,
    max_length=80,  # steps of two seconds
  )
  config.pyramid.num_levels = 4
  config.decode.num_kept = 10
  if args["kind"] == "detr":
    config.detr.stream_widths = (2304, 512)  # SlowFast, CLIP
    config.loss.detr.annotated_pairs = True
    config.data.max_length = 75
    config.data.queries_per_video = 1
    config.data.absent_per_video = 0
    config.data.queries.texts = (
      "features/qvhighlights/clip_text_features/qid{id}.npz"
    )
  else:
    config.loss.saliency_weight = 1.0
    config.loop = {"epochs": 60.0, "seed": args["seed"], "log_every_steps": 50}
  grounders.resize(config, grounders.SIZES, args)
  return config.lock()
