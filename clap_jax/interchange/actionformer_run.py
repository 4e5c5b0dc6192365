"""Builds the config of a localization run from ActionFormer's."""

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from clap_jax.interchange import actionformer_config as configuration

# Maps datasets to the protocols of their benchmarks.
_PROTOCOLS = {
  "thumos": "thumos14",
  "anet": "activitynet",
  "ego4d": "ego4d_mq",
}
_EMA_DECAY = 0.999  # in every public run
# How the public program applies an external classifier to its detections.
_CLASSIFIER = {"top_classes": 2, "combination": "geometric_mean"}


def run_config(values: Mapping[str, Any]) -> dict[str, Any]:
  """Returns a config of the localization trainer for `clap train`.

  Raises:
    ValueError: if a value has no counterpart here.
  """
  classifier = values["test_cfg"]["ext_score_file"] or ""
  return {
    "trainer": "localization",
    "localizer": "actionformer",
    "class_agnostic": configuration.num_classes(values) == 1,
    "protocol": _protocol(values),
    "classifier": _CLASSIFIER | {"path": str(classifier)},
    "data": _data(values),
    "model": dataclasses.asdict(configuration.model_config(values)),
    "loss": dataclasses.asdict(configuration.loss_config(values)),
    "decode": dataclasses.asdict(configuration.decode_config(values)),
    "optimizer": _optimizer(values),
    "loop": {"epochs": float(sum(_epochs(values))), "seed": 0},
    "checkpoint": {"save_every_percent": 20.0, "keep": 2},
    "mesh": {"data": -1},
  }


def _protocol(values) -> str:
  if values["dataset_name"] == "epic":
    is_noun = "noun" in str(values["dataset"]["json_file"])
    return f"epic_kitchens_{'noun' if is_noun else 'verb'}"
  return _PROTOCOLS.get(values["dataset_name"], "activitynet")


def _data(values) -> dict[str, Any]:
  dataset, section = values["dataset"], "dataset"
  crop, stride = (
    dataset["crop_ratio"],
    configuration.number(dataset, section, "feat_stride"),
  )
  folder, names = _folders(dataset)
  if crop is not None:
    crop = configuration.numbers(crop, float, "dataset.crop_ratio", count=2)
  files = {"names": names, "encoder": "external", "timing": "even"}
  if stride > 0:
    fps = dataset["default_fps"]
    files |= {
      "timing": "frames",
      "fps": None
      if fps is None
      else configuration.number(dataset, section, "default_fps"),
      "stride_frames": stride,
      "window_frames": configuration.number(dataset, section, "num_frames"),
    }
  return {
    "annotations": str(dataset["json_file"] or "annotations.json"),
    "features_dir": folder,
    "files": files,
    "train_split": _split(values, "train_split", "training"),
    "selection_split": None,
    "eval_split": _split(values, "val_split", "validation"),
    "batch_size": configuration.whole(values["loader"], "loader", "batch_size"),
    "max_length": configuration.max_length(values),
    "length": "resize" if dataset["force_upsampling"] else "pad",
    "crop_probability": 0.0 if crop is None else 1.0,
    "min_crop_share": 1.0 if crop is None else crop[0],
    "min_visible_share": configuration.number(dataset, section, "trunc_thresh"),
    "num_threads": 2,
    "on_missing": "skip",
  }


def _folders(dataset) -> tuple[str, tuple[str, ...]]:
  """Returns (features folder, file name pattern of each stream)."""
  given = dataset["feat_folder"] or "features"
  folders = [given] if isinstance(given, str) else given
  if not isinstance(folders, list | tuple) or not all(
    isinstance(folder, str) for folder in folders
  ):
    raise ValueError(
      f"dataset.feat_folder: got {given!r:.60}, expected a folder or folders."
    )
  name = "".join(
    (str(dataset["file_prefix"] or ""), "{id}", str(dataset["file_ext"]))
  )
  if len(folders) == 1:
    return folders[0], (name,)
  root = os.path.commonpath(folders) or "."
  return root, tuple(
    str(pathlib.PurePath(os.path.relpath(folder, root), name))
    for folder in folders
  )


def _split(values, key: str, default: str) -> str:
  given = values[key]
  if isinstance(given, list | tuple) and len(given) == 1:
    (given,) = given
  if given is None:
    return default
  if not isinstance(given, str):
    raise ValueError(f"{key}: got {given!r:.60}, expected one name.")
  return given


def _epochs(values) -> tuple[float, float]:
  """Returns the number of epochs of the warm-up and after it."""
  opt = values["opt"]
  warmup = (
    configuration.number(opt, "opt", "warmup_epochs") if opt["warmup"] else 0.0
  )
  return warmup, configuration.number(opt, "opt", "epochs")


def _optimizer(values) -> dict[str, Any]:
  opt, section = values["opt"], "opt"
  names = {"AdamW": "adamw", "SGD": "sgd"}
  schedules = {"cosine": "cosine", "multistep": "step"}
  for key, known in (("type", names), ("schedule_type", schedules)):
    if opt[key] not in known:
      raise ValueError(
        f"opt.{key} is {opt[key]!r:.60}; expected one of {', '.join(known)}."
      )
  warmup, after = _epochs(values)
  clip = configuration.number(
    values["train_cfg"], "train_cfg", "clip_grad_l2norm"
  )
  made = {
    "name": names[opt["type"]],
    "learning_rate": configuration.number(opt, section, "learning_rate"),
    "weight_decay": configuration.number(opt, section, "weight_decay"),
    "schedule": schedules[opt["schedule_type"]],
    "warmup_epochs": warmup,
    "gradient_clip": clip if clip > 0 else None,
    "ema_decay": _EMA_DECAY,
  }
  if opt["type"] == "SGD":
    made["b1"] = configuration.number(opt, section, "momentum")
  if opt["schedule_type"] == "multistep":
    steps = configuration.numbers(
      opt["schedule_steps"], float, "opt.schedule_steps"
    )
    made |= {
      "decay_percents": tuple(
        100.0 * (warmup + step) / (warmup + after) for step in steps
      ),
      "decay_factor": configuration.number(opt, section, "schedule_gamma"),
    }
  return made
