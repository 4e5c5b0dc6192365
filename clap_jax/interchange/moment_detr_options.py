"""Converts Moment-DETR's opt.json to a config of the grounding trainer.

Missing options of features mean no processing: without "ctx_mode" no time
channels are added, without "no_norm_vfeat" and "no_norm_tfeat" nothing is
normalized.
"""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from clap_jax.interchange.actionformer_config import number, numbers, whole
from clap_jax.storage import untrusted

_MAX_BYTES = 1 << 20
_SECTION = "opt"  # in messages
# Model options, which every file must state.
_REQUIRED = (
  "hidden_dim",
  "nheads",
  "enc_layers",
  "dec_layers",
  "dim_feedforward",
  "num_queries",
  "n_input_proj",
  "pre_norm",
  "use_txt_pos",
  "t_feat_dim",
  "v_feat_dim",
  "max_q_l",
  "max_v_l",
)
# Maps keys to default values.
_DEFAULTS: Mapping[str, Any] = {
  "dropout": 0.1,
  "input_dropout": 0.5,
  "position_embedding": "sine",
  "span_loss_type": "l1",
  "ctx_mode": "video",
  "no_norm_vfeat": True,
  "no_norm_tfeat": True,
  "v_feat_dirs": None,
  "t_feat_dir": None,
  "train_path": None,
  "eval_path": None,
  "clip_length": 2.0,
  "max_windows": 5,
  "aux_loss": True,
  "set_cost_span": 10.0,
  "set_cost_giou": 1.0,
  "set_cost_class": 4.0,
  "span_loss_coef": 10.0,
  "giou_loss_coef": 1.0,
  "label_loss_coef": 4.0,
  "lw_saliency": 1.0,
  "eos_coef": 0.1,
  "saliency_margin": 0.2,
  "lr": 1e-4,
  "lr_drop": 400,
  "wd": 1e-4,
  "n_epoch": 200,
  "bsz": 32,
  "grad_clip": 0.1,
  # Not an option of the public program: widths of the v_feat_dirs.
  "v_feat_dims": None,
}
# The only values that the model here supports.
_ONLY = {
  "position_embedding": ("sine", "v2"),
  "span_loss_type": ("l1",),
  "ctx_mode": ("video", "video_tef"),
}
_FLAGS = (
  "pre_norm",
  "use_txt_pos",
  "aux_loss",
  "no_norm_vfeat",
  "no_norm_tfeat",
)
# Maps parts of the names of public feature folders to feature widths.
_STREAM_WIDTHS = {"slowfast": 2304, "clip": 512, "resnet": 2048}
_DECAY_FACTOR = 0.1
_FIRST_NORM = "input_vid_proj.0.LayerNorm.weight"


class OptionsError(ValueError):
  """Raised if a file is not an opt.json of this model."""


def beside(checkpoint: str | os.PathLike) -> pathlib.Path:
  """Finds the options file beside a checkpoint.

  Raises:
    FileNotFoundError: if there is none.
  """
  path = pathlib.Path(checkpoint)
  names = ("opt.json", path.with_suffix(".json").name)
  for name in names:
    if path.with_name(name).is_file():
      return path.with_name(name)
  raise FileNotFoundError(
    f"{checkpoint} has neither {' nor '.join(names)} beside it; pass the "
    "options of its training as --config."
  )


def read(path: str | os.PathLike) -> dict[str, Any]:
  """Reads a file and adds the defaults of the options that are used.

  Options of where and how the public program runs are left out.

  Raises:
    OptionsError: if it is no such file, or has values that the model here does
      not support.
  """
  found = untrusted.read_json(path, max_bytes=_MAX_BYTES)
  if not isinstance(found, dict):
    raise OptionsError(
      f"{path}: got a {type(found).__name__}, expected an object of options."
    )
  missing = [key for key in _REQUIRED if key not in found]
  if missing:
    raise OptionsError(
      f"{path}: lacks {', '.join(missing)}; pass the opt.json that the "
      "training wrote beside the checkpoint."
    )
  options = {key: found[key] for key in _REQUIRED}
  options |= {
    key: found.get(key, default) for key, default in _DEFAULTS.items()
  }
  for key, values in _ONLY.items():
    if options[key] not in values:
      raise OptionsError(
        f"{path}: {key} is {options[key]!r:.60}; this model supports only "
        f"{' and '.join(values)}."
      )
  for key in _FLAGS:
    if not isinstance(options[key], bool):
      raise OptionsError(
        f"{path}: {key} is {options[key]!r:.60}; expected true or false."
      )
  return options


def video_width(tensors: Mapping[str, np.ndarray]) -> int:
  """Returns the model's input channels, including time channels.

  Raises:
    OptionsError: if it is not a checkpoint of Moment-DETR.
  """
  for key, tensor in tensors.items():
    if key.endswith(_FIRST_NORM) and tensor.ndim == 1:
      return len(tensor)
  raise OptionsError(
    f"the checkpoint has no {_FIRST_NORM}; expected one of Moment-DETR."
  )


def input_sizes(options: Mapping[str, Any], width: int) -> dict[str, int]:
  """Returns the sizes of features and texts for a head's metadata.

  Args:
    options: result of `read`.
    width: result of `video_width`.

  Raises:
    ValueError: if the options state another width.
  """
  times = 2 if _has_times(options) else 0
  stated = whole(options, _SECTION, "v_feat_dim")
  # The public program adds time channels after writing the file.
  if stated not in (width, width - times):
    raise ValueError(
      f"v_feat_dim is {stated}, but the checkpoint's model takes {width} "
      f"channels, of which {times} are time channels."
    )
  return {
    "feature_width": width - times,
    "query_length": whole(options, _SECTION, "max_q_l"),
    "query_width": whole(options, _SECTION, "t_feat_dim"),
  }


def run_config(options: Mapping[str, Any], width: int) -> dict[str, Any]:
  """Returns a config of the grounding trainer for `clap train`.

  Args:
    options: result of `read`.
    width: result of `video_width`.

  Raises:
    ValueError: if a value has no counterpart here.
  """
  return {
    "trainer": "grounding",
    "kind": "detr",
    "protocol": "qvhighlights",
    "data": _data(options),
    "detr": _model(options, width),
    "loss": {"detr": _loss(options)},
    "decode": {
      "num_kept": whole(options, _SECTION, "num_queries"),
      "num_candidates": whole(options, _SECTION, "num_queries"),
      "sigma": 0.0,
      "min_score": 0.0,
      "min_length": 0.0,
    },
    "optimizer": _optimizer(options),
    "loop": {"epochs": number(options, _SECTION, "n_epoch"), "seed": 0},
    "checkpoint": {"save_every_percent": 20.0, "keep": 2},
    "mesh": {"data": -1},
  }


def _has_times(options) -> bool:
  return options["ctx_mode"] == "video_tef"


def _model(options, width: int) -> dict[str, Any]:
  sizes = {
    ours: whole(options, _SECTION, theirs)
    for ours, theirs in {
      "width": "hidden_dim",
      "num_heads": "nheads",
      "num_encoder_layers": "enc_layers",
      "num_decoder_layers": "dec_layers",
      "mlp_width": "dim_feedforward",
      "num_moments": "num_queries",
      "num_projections": "n_input_proj",
      "max_text_length": "max_q_l",
    }.items()
  }
  return sizes | {
    "norm_first": options["pre_norm"],
    "dropout_rate": number(options, _SECTION, "dropout"),
    "input_dropout_rate": number(options, _SECTION, "input_dropout"),
    "text_positions": options["use_txt_pos"],
    "normalize_text": not options["no_norm_tfeat"],
    "stream_widths": _stream_widths(options, width),
    "time_channels": _has_times(options),
  }


def _stream_widths(options, width: int) -> tuple[int, ...]:
  """Returns the widths of normalized streams; () without normalization."""
  if options["no_norm_vfeat"]:
    return ()
  total = input_sizes(options, width)["feature_width"]
  folders = _folders(options)
  if options["v_feat_dims"] is not None:
    widths = numbers(options["v_feat_dims"], int, "v_feat_dims")
  elif len(folders) <= 1:
    widths = (total,)
  else:
    widths = tuple(
      next(
        (
          known
          for part, known in _STREAM_WIDTHS.items()
          if part in pathlib.PurePath(folder).name
        ),
        0,
      )
      for folder in folders
    )
  if sum(widths) != total or 0 in widths:
    raise ValueError(
      f"the widths {widths} of the streams {', '.join(folders)} do not sum to "
      f"{total}; add the right ones to the file as "
      '"v_feat_dims": [...].'
    )
  return widths


def _folders(options) -> tuple[str, ...]:
  given = options["v_feat_dirs"] or ()
  if not isinstance(given, list | tuple) or not all(
    isinstance(folder, str) for folder in given
  ):
    raise ValueError(f"v_feat_dirs: got {given!r:.60}, expected folders.")
  return tuple(given)


def _data(options) -> dict[str, Any]:
  clip_sec = number(options, _SECTION, "clip_length")
  folders = _folders(options) or ("features/qvhighlights",)
  root = os.path.commonpath(folders) if folders[1:] else folders[0]
  annotations = "annotations/qvhighlights/highlight_{}_release.jsonl"
  texts = options["t_feat_dir"] or "features/qvhighlights/clip_text_features"
  return {
    "dataset": "qvhighlights",
    "queries": {
      "files": {
        "train": str(options["train_path"] or annotations.format("train")),
        "val": str(options["eval_path"] or annotations.format("val")),
      },
      "texts": str(pathlib.PurePath(str(texts), "qid{id}.npz")),
      "held_out": "qvhighlights",
    },
    "features_dir": root,
    "files": {
      "names": tuple(
        str(pathlib.PurePath(os.path.relpath(folder, root), "{id}.npz"))
        for folder in folders
      ),
      "key": "features",
      "timing": "frames",
      "fps": 1.0,  # frames are seconds here
      "stride_frames": clip_sec,
      "window_frames": clip_sec,
      "encoder": "external",
    },
    "train_split": "train",
    "selection_split": "selection",
    "eval_split": "val",
    "batch_size": whole(options, _SECTION, "bsz"),
    "queries_per_video": 1,
    "absent_per_video": 0,
    "max_length": whole(options, _SECTION, "max_v_l"),
    "length": "pad",
    "crop_probability": 0.0,
    "num_threads": 2,
    "on_missing": "skip",
  }


def _loss(options) -> dict[str, Any]:
  weights = {
    ours: number(options, _SECTION, theirs)
    for ours, theirs in {
      "span_weight": "span_loss_coef",
      "iou_weight": "giou_loss_coef",
      "label_weight": "label_loss_coef",
      "saliency_weight": "lw_saliency",
      "background_weight": "eos_coef",
      "saliency_margin": "saliency_margin",
      "span_cost": "set_cost_span",
      "iou_cost": "set_cost_giou",
      "label_cost": "set_cost_class",
    }.items()
  }
  return weights | {
    "every_layer": options["aux_loss"],
    "max_windows": whole(options, _SECTION, "max_windows"),
  }


def _optimizer(options) -> dict[str, Any]:
  epochs = number(options, _SECTION, "n_epoch")
  drop = number(options, _SECTION, "lr_drop")
  clip = number(options, _SECTION, "grad_clip")
  made = {
    "name": "adamw",
    "learning_rate": number(options, _SECTION, "lr"),
    "weight_decay": number(options, _SECTION, "wd"),
    "schedule": "constant",
    "gradient_clip": clip if clip > 0 else None,
  }
  if not 0 < drop < epochs:
    return made
  falls = (100.0 * drop * i / epochs for i in range(1, int(epochs / drop) + 1))
  return made | {
    "schedule": "step",
    "decay_percents": tuple(fall for fall in falls if fall < 100.0),
    "decay_factor": _DECAY_FACTOR,
  }
