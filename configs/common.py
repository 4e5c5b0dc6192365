"""What every config file shares: its argument, its sections, its sweeps."""

import itertools

from ml_collections import config_dict


def parse_arg(arg: str, **defaults):
  """Parses "size,key=value,flag" into typed values.

  Args:
    arg: comma-separated; a first item without "=" sets the first default when
      that one is a string; a later bare item sets a boolean to True.
    **defaults: name -> default; the default's type is the value's type.

  Returns:
    A dict with every name of `defaults`.

  Raises:
    ValueError: for an unknown or repeated name or a value of the wrong type.
  """
  values, given = dict(defaults), set()
  first = next(iter(defaults), None)
  for position, item in enumerate(filter(None, arg.split(","))):
    name, equals, text = item.partition("=")
    if not equals:
      takes_bare = position == 0 and isinstance(defaults.get(first), str)
      if takes_bare and name not in defaults:
        name, text = first, name
      else:
        text = "True"
    if name not in defaults:
      raise ValueError(
        f"Unknown config argument {name!r}; choose from {sorted(defaults)}."
      )
    if name in given:
      raise ValueError(f"Config argument {name!r} is given twice in {arg!r}.")
    given.add(name)
    values[name] = _typed(name, text, type(defaults[name]))
  return values


def _typed(name: str, text: str, kind: type):
  if kind is bool:
    if text not in ("True", "False"):
      raise ValueError(f"{name} must be True or False, got {text!r}.")
    return text == "True"
  try:
    return kind(text)
  except ValueError:
    raise ValueError(
      f"{name} must be of type {kind.__name__}, got {text!r}."
    ) from None


def update(config, table: dict, name: str, key: str) -> None:
  """Applies the row `key` of a table of overrides.

  Raises:
    ValueError: if the table has no such row.
  """
  if key not in table:
    raise ValueError(f"Unknown {name} {key!r}; choose from {sorted(table)}.")
  override(config, table[key])


def override(config, values: dict) -> None:
  """Sets "a.b" -> value.

  A duration replaces its other spellings: "loop.steps" drops "loop.epochs".
  """
  for path, value in values.items():
    section, _, last = path.rpartition(".")
    target = config
    for part in filter(None, section.split(".")):
      target = target[part]
    stem, underscore, unit = last.rpartition("_")
    if unit in _DURATION_UNITS:
      for other in _DURATION_UNITS:
        if f"{stem}{underscore}{other}" in target:
          del target[f"{stem}{underscore}{other}"]
    target[last] = value


_DURATION_UNITS = ("steps", "epochs", "percent")


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


def pretraining(
  *, dataset: str, encoder: str, seed: int, class_split: str = ""
) -> config_dict.ConfigDict:
  """A run of pre-training, in numbers that suit two CPU cores."""
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
    "class_split": class_split,
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
    "seed": seed,
    "log_every_steps": 10,
  }
  config.checkpoint = {"save_every_percent": 25.0, "keep": 2}
  config.mesh = {"data": -1, "fsdp": 1, "tensor": 1}
  return config


def feature_data(size: str) -> dict:
  """The data section of both heads on motion_sprites."""
  return {
    "dataset": f"motion_sprites/{size}",
    "data_dir": "data",
    "features_dir": "features",  # what `clap extract` wrote
    "train_split": "train",
    "selection_split": "selection",
    "eval_split": "validation",
    "batch_size": 16,
    "max_length": 64,  # snippets
    "crop_probability": 0.3,  # of a random temporal crop in training
    "num_threads": 1,
  }


def activitynet_features(*, extracted: bool = False) -> dict:
  """The data section of ActivityNet-1.3 on features.

  Args:
    extracted: of `clap extract`; else the public ones of TSP.
  """
  data = {
    "annotations": "annotations/activity_net.v1-3.min.json",
    "features_dir": "features/activitynet_tsp",
    "files": {
      "names": ("v_{id}.npy",),
      "key": "",  # of the array within an .npz or HDF5 file
      "axis_order": "td",
      "timing": "frames",
      "fps": 15.0,  # the videos were resampled
      "stride_frames": 16.0,
      "window_frames": 16.0,
      "offset_frames": 0.0,
      "encoder": "tsp",
    },
    "train_split": "training",
    "selection_split": config_dict.placeholder(str),  # looked at in training
    "eval_split": "validation",
    "batch_size": 16,
    "max_length": 192,  # steps that every video is resized to
    "length": "resize",
    "crop_probability": 0.0,
    "num_threads": 2,
    "on_missing": "skip",  # videos that are gone; the card counts them
    "holdout": config_dict.placeholder(str),  # regex on training ids
    "ignored_videos": (),
  }
  if extracted:
    del data["files"]
  return data


def thumos_features() -> dict:
  """The data section of THUMOS14 on public two-stream I3D features."""
  return {
    "annotations": "annotations/thumos14.json",
    "features_dir": "features/thumos14_i3d",
    "files": {
      "names": ("{id}.npy",),
      "key": "",
      "axis_order": "td",
      "timing": "frames",
      "fps": config_dict.placeholder(float),  # None: that of the annotations
      "stride_frames": 4.0,
      "window_frames": 16.0,
      "offset_frames": 0.0,
      "encoder": "i3d",
    },
    "train_split": "validation",
    "selection_split": config_dict.placeholder(str),  # looked at in training
    "eval_split": "test",
    "batch_size": 2,
    "max_length": 2304,  # steps of a training sequence
    "length": "pad",
    "crop_probability": 1.0,
    "num_threads": 2,
    "on_missing": "raise",
    "holdout": config_dict.placeholder(str),  # regex on training ids
    "ignored_labels": ("Ambiguous",),
    # Wrong labels; no action.
    "ignored_videos": ("video_test_0000270", "video_test_0001292"),
  }


def hapt_features(*, select: bool) -> dict:
  """The data section of UCI HAPT; `select` holds training subjects out."""
  return {
    "annotations": "features/hapt/annotations.json",
    "features_dir": "features/hapt",  # both by `clap sensors`
    "files": {"names": ("{id}.npz",), "timing": "stored", "encoder": "windows"},
    "train_split": "training",
    "selection_split": "holdout" if select else config_dict.placeholder(str),
    "eval_split": "validation",
    "holdout": "user(05|11|17|23|29)$"
    if select
    else config_dict.placeholder(str),
    "standardize": True,
    "batch_size": 8,
    "max_length": 256,  # steps of a training crop
    "length": "pad",
    "crop_probability": 1.0,
    "num_threads": 1,
  }


def pyramid() -> dict:
  """The trunk of both heads."""
  return {
    "width": 64,
    "num_levels": 4,
    "range_factor": 4.0,  # strides
    "block": "conv",  # conv | attention
    "num_stem_convs": 1,
    "num_stem_blocks": 1,
    "window_steps": 7,
    "num_heads": 4,
    "mlp_ratio": 2.0,  # hidden over outer width
    "dropout_rate": 0.1,
    "use_positions": False,
    "normalize_input": True,
  }


def point_loss() -> dict:
  """The loss over pyramid points of both heads."""
  return {
    "center_radius": 1.5,  # strides
    "focal_alpha": 0.25,
    "focal_gamma": 2.0,
    "label_smoothing": 0.0,
    "offset_similarity": "diou",  # iou | giou | diou
    "offset_weight": 1.0,
  }


def point_head() -> dict:
  """The heads of the anchor-free localizer."""
  return {
    "num_convs": 1,
    "kernel_size": 3,  # steps
    "prior_probability": 0.01,
    "dropout_rate": 0.1,
  }


def text_classes(class_split: str) -> dict:
  """How open-vocabulary localization tells classes by their names."""
  return {
    "class_split": class_split,  # a name, or a .json or .list file
    "top_classes": 0,  # labels per proposal; 0: all
    "text_scale": 0.0,  # of the softmax over classes; 0: the towers' own
    "text_model": "",  # of `clap import`; "": that of the features' encoder
    "projection": "towers",  # towers | learned, on the seen classes
  }


def point_decode() -> dict:
  """How the anchor-free localizer's points become detections."""
  return {
    "num_kept": 100,  # detections per video
    "num_candidates": 400,
    "sigma": 0.5,  # of the Gaussian soft-NMS
    "min_score": 0.001,
    "min_length": 0.05,  # grid units
    "class_wise": True,
    "vote_iou": 0.0,  # 0: no segment voting
  }


def point_benchmark(config, args) -> None:
  """The sections of the anchor-free localizer that benchmarks share.

  What ActionFormer's public configurations have in common; the benchmark's own
  file adds data, protocol, duration and what differs.
  """
  config.trainer = "localization"
  config.localizer = "points"
  config.pyramid = pyramid() | {
    "num_levels": 6,
    "block": "attention",
    "num_stem_convs": 2,
    "num_stem_blocks": 2,
    "mlp_ratio": 4.0,
  }
  config.head = point_head() | {"num_convs": 2, "dropout_rate": 0.0}
  config.loss = point_loss()
  config.decode = point_decode() | {"num_candidates": 2000}
  config.optimizer = head_optimizer() | {"ema_decay": 0.999}
  _benchmark_run(config, args)


def point_own_features(config, args) -> None:
  """The anchor-free localizer on unscaled features, small enough for a CPU.

  Everything but the data and the protocol.
  """
  config.trainer = "localization"
  config.localizer = "points"
  config.pyramid = pyramid() | {
    "width": 64,
    "num_levels": 5,
    "block": "conv",
    "num_stem_convs": 2,
    "window_steps": 9,
    "dropout_rate": 0.2,
    "normalize_input": False,  # standardized instead
  }
  config.head = point_head() | {"dropout_rate": 0.2}
  config.loss = point_loss()
  config.decode = point_decode() | {
    "num_kept": 200,  # detections per recording
    "num_candidates": 1000,
  }
  config.optimizer = head_optimizer()
  config.loop = {"steps": 800, "seed": args["seed"], "log_every_steps": 50}
  config.checkpoint = {"save_every_percent": 50.0, "keep": 2}
  config.mesh = {"data": -1, "fsdp": 1, "tensor": 1}


def own_features(**others) -> dict:
  """The data section of features and annotations of one's own.

  Every key of it may be set by a flag; these are the ones to look at.
  """
  return {
    "annotations": "annotations.json",  # or a table, see own_annotations.py
    "features_dir": "features",
    "files": {
      "names": ("{id}.npz",),  # or .npy, .csv; one .h5 with key "{id}"
      "timing": "stored",  # frames (fps, stride_frames, ...) | even | stored
    },
    "train_split": "training",
    "selection_split": config_dict.placeholder(str),  # looked at in training
    "eval_split": "validation",
    "batch_size": 8,
    "max_length": 256,  # steps of a training crop
    "length": "pad",
    "crop_probability": 1.0,
    "num_threads": 1,
  } | others


def point_activitynet(config, args) -> None:
  """The anchor-free localizer on ActivityNet-1.3, data and all."""
  point_benchmark(config, args)
  config.protocol = "activitynet"
  config.data = activitynet_features(extracted=args["extracted"])
  config.pyramid.update(
    {"width": 256, "window_steps": 7, "use_positions": True}
  )
  config.loss.label_smoothing = 0.1
  config.decode.update({"num_kept": 100, "sigma": 0.75, "vote_iou": 0.9})
  config.optimizer.warmup_percent = 33.3  # five epochs
  config.loop.epochs = 15.0


def graph_benchmark(config, args) -> None:
  """The sections of the sub-graph localizer that benchmarks share.

  What G-TAD publishes for ActivityNet; the benchmark's own file adds data,
  protocol, duration and what differs.
  """
  config.trainer = "localization"
  config.localizer = "subgraph"
  config.graph = graph()
  config.loss = proposal_loss()
  config.decode = {
    "num_kept": 100,  # detections per video
    "num_candidates": 1000,
    "sigma": 0.8,  # of the Gaussian soft-NMS
    "min_score": 0.0001,
    "class_wise": True,
    "vote_iou": 0.0,  # 0: no segment voting
    "classes_per_segment": 2,
    "boundary_filter": True,
  }
  config.optimizer = {
    "learning_rate": 4e-3,
    "weight_decay": 1e-4,
    "schedule": "step",
    "decay_percents": (50.0,),
    "gradient_clip": 1.0,  # global norm
  }
  _benchmark_run(config, args)


def _benchmark_run(config, args) -> None:
  config.loop = {"seed": args["seed"], "log_every_steps": 50}
  config.checkpoint = {"save_every_percent": 20.0, "keep": 2}
  config.mesh = {"data": -1, "fsdp": 1, "tensor": 1}


def graph() -> dict:
  """The sub-graph localizer as published for ActivityNet."""
  return {
    "width": 256,
    "num_groups": 32,
    "num_neighbours": 3,  # the step itself included
    "max_duration": 100,  # steps
    "num_bins": 32,
    "num_context_bins": 4,
    "extension": 0.5,  # to each side, of the candidate's length
    "map_widths": (512, 128, 128, 128),
    "map_kernel_size": 1,
    "num_class_blocks": 1,
    "prior_probability": 0.1,
    "dropout_rate": 0.0,
  }


def proposal_loss() -> dict:
  """The loss of the sub-graph localizer as published for ActivityNet."""
  return {
    "boundary_weight": 1.0,
    "overlap_weight": 10.0,
    "quality_weight": 1.0,
    "class_weight": 1.0,
    "quality_iou": 0.9,
  }


# Sizes of the sub-graph localizer; "full" is what the files say.
GRAPH_SIZES = {
  "tiny": {
    "graph.width": 16,
    "graph.num_groups": 4,
    "graph.max_duration": 12,
    "graph.num_bins": 4,
    "graph.num_context_bins": 2,
    "graph.map_widths": (16, 8, 8),
    "data.batch_size": 8,
    "data.max_length": 16,
    "loop.steps": 4,
  },
  "full": {},
}


def head_optimizer() -> dict:
  """AdamW for heads on frozen features."""
  return {
    "learning_rate": 1e-3,
    "weight_decay": 0.05,
    "warmup_percent": 5.0,
    "gradient_clip": 1.0,  # global norm
    "ema_decay": 0.99,
  }


def episodes(config, *, text: bool) -> None:
  """What few-shot localization adds to a config with data and class_split."""
  config.data.crop_probability = 0.0  # the videos of an episode are whole
  config.data.batch_size = 8  # episodes
  config.allow_seen_classes = False  # True: the card states it
  config.episodes = {"ways": 5, "shots": 1, "instances": "all"}  # of training
  config.evaluation = {
    "ways": (1, 5),
    "shots": (1, 5),
    "instances": ("all",),  # single | multi | all: segments of the class
    "min_episodes": 1000,  # per number; whole runs over all queries
    "seed": 0,  # of the episodes, the same for every encoder
    "temperature": 0.1,  # of nearest prototype
    "legacy_qat": False,
  }
  config.pyramid = pyramid()
  config.head = point_head()
  config.matcher = {
    "adapt_steps": 10,  # of gradient descent on the support
    "num_heads": 2,  # of the attention over the query; 0: none
    "use_text": text,
  }
  config.loss = point_loss()
  config.decode = point_decode() | {"num_kept": 50}  # per query
  config.optimizer = head_optimizer()
  config.checkpoint = {"save_every_percent": 50.0, "keep": 2}
  config.mesh = {"data": -1, "fsdp": 1, "tensor": 1}


def legacy_qat(config, is_on: bool) -> None:
  """Evaluates under the older protocol, which is 1-way."""
  if is_on:
    config.evaluation.legacy_qat = True
    config.evaluation.ways = (1,)


# Sizes of heads on the features of a benchmark; "full" is what their files say.
BENCHMARK_SIZES = {
  "tiny": {
    "pyramid.width": 16,
    "pyramid.num_heads": 2,
    "pyramid.num_levels": 3,
    "data.batch_size": 8,
    "data.max_length": 32,
    "loop.steps": 4,
  },
  "full": {},
}


def late_fusion() -> dict:
  """The text encoder and the fusion of a grounder."""
  return {
    "num_text_layers": 1,
    "num_fusion_layers": 1,
    "num_heads": 4,
    "mlp_ratio": 2.0,  # hidden over outer width
    "dropout_rate": 0.1,
  }


def moment_map() -> dict:
  """The two-dimensional map of a grounder of that kind."""
  return {
    "steps_per_clip": 1,  # snippets
    "pooling_counts": (15, 8, 8),  # lengths per level of the candidates
    "pooling": "attention",  # attention | max
    "num_graph_layers": 1,
    "num_neighbours": 7,
    "num_map_convs": 0,
    "map_kernel_size": 3,  # cells
    "refine": True,  # regress the ends beyond the grid
  }


def grounding_loss() -> dict:
  """The loss of both kinds of grounders."""
  return {
    "points": point_loss(),
    "listwise_weight": 0.5,
    "absence_weight": 0.1,
    "saliency_weight": 0.0,
    "absent_moments": False,
    "map_iou_low": 0.5,
    "map_iou_high": 1.0,
    "map_positive_weight": 1.0,
    "map_shift_weight": 1.0,
  }


def grounding_benchmark(config, args) -> None:
  """The sections of a benchmark's grounder but its data and its protocol.

  Width, learning rate and window are those of SnAG on TACoS, which has others
  elsewhere and five text layers; the map's clips and candidates stand in the
  benchmark's own file.
  """
  config.trainer = "grounding"
  config.kind = args["kind"]  # pyramid | map
  config.pyramid = pyramid() | {
    "width": 256,
    "num_levels": 6,
    "block": "attention",
    "num_stem_convs": 2,
    "window_steps": 19,
  }
  config.fusion = late_fusion() | {"num_text_layers": 2}
  config.head = point_head() | {"num_convs": 2, "dropout_rate": 0.0}
  config.map = moment_map()
  config.loss = grounding_loss()
  config.decode = point_decode() | {
    "num_kept": 5,  # moments per query
    "num_candidates": 2000,
    "sigma": 0.9,
  }
  config.optimizer = head_optimizer() | {
    "learning_rate": 1e-3 if args["kind"] == "pyramid" else 2e-4,
    "ema_decay": 0.999,
  }
  config.loop = {"epochs": 15.0, "seed": args["seed"], "log_every_steps": 50}
  config.checkpoint = {"save_every_percent": 20.0, "keep": 2}
  config.mesh = {"data": -1, "fsdp": 1, "tensor": 1}


def query_data(*, queries: dict, files: dict, **others) -> dict:
  """The data section of a grounder on annotation and feature files.

  Everything that `queries` and `files` leave out has a value here, so that any
  of it can be overridden.
  """
  return {
    "queries": {"durations": (), "held_out": config_dict.placeholder(str)}
    | queries,
    "files": {
      "key": "",  # of the array within an .npz or HDF5 file
      "axis_order": "td",
      "timing": "even",  # even | frames | stored
      # Of timing "frames":
      "fps": config_dict.placeholder(float),  # of the frames that are counted
      "stride_frames": config_dict.placeholder(float),
      "window_frames": config_dict.placeholder(float),
      "offset_frames": 0.0,
    }
    | files,
    "length": "pad",  # pad | resize
    "train_split": "train",
    "selection_split": "selection",
    "batch_size": 16,  # videos
    "queries_per_video": 8,
    "absent_per_video": 2,  # queries of other videos
    "crop_probability": 0.0,
    "num_threads": 2,
    "on_missing": "skip",  # videos that are gone; the card counts them
  } | others


# "full" is what the benchmarks' files say.
GROUNDING_SIZES = {
  "tiny": {
    "pyramid.width": 16,
    "pyramid.num_heads": 2,
    "pyramid.num_levels": 2,
    "fusion.num_heads": 2,
    "data.batch_size": 2,
    "loop.steps": 4,
  },
  "full": {},
}


# Sizes of both heads; "demo" is what their files say.
HEAD_SIZES = {
  "tiny": {
    "pyramid.width": 16,
    "pyramid.num_heads": 2,
    "pyramid.num_levels": 2,
    "data.batch_size": 8,
    "data.max_length": 32,
    "loop.steps": 4,
  },
  "demo": {},
  "full": {
    "pyramid.width": 256,
    "pyramid.num_levels": 5,
    "data.batch_size": 64,
    "data.max_length": 128,
    "loop.steps": 10_000,
  },
}


def grid(axes: dict):
  """Every combination of the axes' values, as overrides for `sweep()`.

  Args:
    axes: key -> values, as in {"optimizer.learning_rate": (1e-3, 1e-4)}.
  """
  for values in itertools.product(*axes.values()):
    yield dict(zip(axes, values, strict=True))


def together(axes: dict):
  """The first values of all axes, the second ones, and so on.

  Raises:
    ValueError: if the axes differ in length.
  """
  lengths = {key: len(values) for key, values in axes.items()}
  if len(set(lengths.values())) > 1:
    raise ValueError(f"Axes that go together differ in length: {lengths}.")
  for values in zip(*axes.values(), strict=True):
    yield dict(zip(axes, values, strict=True))
