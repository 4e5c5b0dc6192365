"""Converts ActionFormer's YAML to a config of the localization trainer.

`read` adds the public program's defaults to a file; actionformer_run translates
the result. Values without a counterpart here are errors, unless they only
describe where the program runs.
"""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import yaml

from clap_jax.losses import localization as losses
from clap_jax.models import actionformer_decoding
from clap_jax.models.actionformer_config import ActionFormerConfig
from clap_jax.storage import untrusted

_MAX_BYTES = 1 << 20
# Maps section -> key -> default value.
_DEFAULTS_FILE = pathlib.Path(__file__).with_name("actionformer_defaults.yaml")
_EVERYWHERE = 1e9  # radius in strides that includes all points

# Keys of the public program that describe where it runs or repeat sections.
_OTHER_KEYS = (
  "dataset_name",
  "devices",
  "init_rand_seed",
  "model_name",
  "output_folder",
  "train_split",
  "val_split",
)
_COPIED_KEYS = ("input_dim", "num_classes", "max_seq_len")
_COPIED_SECTIONS = ("train_cfg", "test_cfg")
# The only values that the model here supports.
_ONLY = {
  ("model", "backbone_type"): "convTransformer",
  ("model", "fpn_type"): "identity",
  ("model", "fpn_start_level"): 0,
  ("model", "scale_factor"): 2,
  ("dataset", "downsample_rate"): 1,
}
_NMS_METHODS = ("soft", "none")


class ConfigurationError(ValueError):
  """Raised if a file is not a configuration of ActionFormer."""


def read(path: str | os.PathLike) -> dict[str, Any]:
  """Reads a file and adds the public program's defaults.

  Raises:
    ConfigurationError: if it is no such file, or has unknown keys or values
      that the model here does not support.
  """
  text = untrusted.read_text(path, max_bytes=_MAX_BYTES)
  defaults = yaml.safe_load(untrusted.read_text(_DEFAULTS_FILE))
  try:
    found = yaml.safe_load(text)
  except (yaml.YAMLError, RecursionError) as error:
    reason = " ".join(str(error).split())
    raise ConfigurationError(f"{path}: not YAML: {reason:.300}") from None
  if not isinstance(found, dict):
    raise ConfigurationError(
      f"{path}: got a {type(found).__name__}, expected the sections "
      f"{', '.join(defaults)}; pass the .yaml of the checkpoint."
    )
  try:
    return _completed(found, defaults)
  except ValueError as error:
    raise ConfigurationError(f"{path}: {error}") from None


def _completed(
  found: Mapping[str, Any], defaults: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
  unknown = sorted(map(str, set(found) - set(defaults) - set(_OTHER_KEYS)))
  if "model" not in found or unknown:
    raise ValueError(
      f"has the sections {', '.join(map(str, found))}; expected model and any "
      f"of {', '.join((*defaults, *_OTHER_KEYS))}."
    )
  result: dict[str, Any] = {key: found.get(key) for key in _OTHER_KEYS}
  for section, known in defaults.items():
    given = found.get(section) or {}
    if not isinstance(given, dict):
      raise ValueError(f"{section}: got {given!r:.60}, expected keys.")
    copied = (*_COPIED_KEYS, *_COPIED_SECTIONS) if section == "model" else ()
    extra = sorted(map(str, set(given) - set(known) - set(copied)))
    if extra:
      raise ValueError(
        f"{section}: unknown keys {', '.join(extra)}; expected any of "
        f"{', '.join(known)}."
      )
    result[section] = {
      key: given.get(key, default) for key, default in known.items()
    }
  for (section, key), only in _ONLY.items():
    value = result[section][key]
    if value != only:
      raise ValueError(
        f"{section}.{key} is {value!r:.60}; this model supports only {only!r}."
      )
  return result


def model_config(values: Mapping[str, Any]) -> ActionFormerConfig:
  """Returns the model config of the result of `read`.

  Raises:
    ValueError: if values have another type or contradict each other.
  """
  model, train = values["model"], values["train_cfg"]
  num_stem_convs, num_stem_blocks, num_branches = numbers(
    model["backbone_arch"], int, "model.backbone_arch", count=3
  )
  num_levels = num_branches + 1
  windows = model["n_mha_win_size"]
  if not isinstance(windows, list | tuple):
    windows = (windows,) * num_levels
  ranges = model["regression_range"]
  if not isinstance(ranges, list | tuple):
    raise ValueError(f"model.regression_range: got {ranges!r:.60}, not pairs.")
  streams, projected = _streams(values)
  width = sum(projected) if projected else whole(model, "model", "embd_dim")
  neck_width = whole(model, "model", "fpn_dim")
  if neck_width != width:
    raise ValueError(
      f"model.fpn_dim is {neck_width}; an identity neck keeps the width "
      f"{width} of model.embd_dim."
    )
  return ActionFormerConfig(
    width=width,
    stream_widths=streams,
    projected_widths=projected,
    num_stem_convs=num_stem_convs,
    stem_kernel_size=whole(model, "model", "embd_kernel_size"),
    stem_norm=bool(model["embd_with_ln"]),
    num_stem_blocks=num_stem_blocks,
    # A size up to 1 means the whole sequence.
    windows=tuple(
      size if size > 1 else -1
      for size in numbers(windows, int, "model.n_mha_win_size")
    ),
    ranges=tuple(
      (low, high)
      for low, high in (
        numbers(pair, float, "model.regression_range", count=2)
        for pair in ranges
      )
    ),
    num_heads=whole(model, "model", "n_head"),
    dropout_rate=number(train, "train_cfg", "dropout"),
    drop_path_rate=number(train, "train_cfg", "droppath"),
    absolute_positions=bool(model["use_abs_pe"]),
    relative_positions=bool(model["use_rel_pe"]),
    level_norm=bool(model["fpn_with_ln"]),
    head_width=whole(model, "model", "head_dim"),
    head_kernel_size=whole(model, "model", "head_kernel_size"),
    num_convs=whole(model, "model", "head_num_layers") - 1,
    head_norm=bool(model["head_with_ln"]),
    prior_probability=number(train, "train_cfg", "cls_prior_prob"),
    empty_classes=numbers(
      train["head_empty_cls"] or (), int, "train_cfg.head_empty_cls"
    ),
  )


def input_width(values: Mapping[str, Any]) -> int:
  """Returns the channels of a feature, summed over all streams."""
  width = values["dataset"]["input_dim"]
  if isinstance(width, list | tuple):
    return sum(numbers(width, int, "dataset.input_dim"))
  return whole(values["dataset"], "dataset", "input_dim")


def num_classes(values: Mapping[str, Any]) -> int:
  """Returns the number of outputs of the class head."""
  return whole(values["dataset"], "dataset", "num_classes")


def max_length(values: Mapping[str, Any]) -> int:
  """Returns the number of steps of a training sequence."""
  return whole(values["dataset"], "dataset", "max_seq_len")


def loss_config(values: Mapping[str, Any]) -> losses.NormalizedLossConfig:
  """Returns the loss config of the result of `read`."""
  train, section = values["train_cfg"], "train_cfg"
  samples = train["center_sample"]
  if samples not in ("radius", "none"):
    raise ValueError(
      f"train_cfg.center_sample is {samples!r:.60}; expected radius or none."
    )
  radius = number(train, section, "center_sample_radius")
  return losses.NormalizedLossConfig(
    center_radius=radius if samples == "radius" else _EVERYWHERE,
    label_smoothing=number(train, section, "label_smoothing"),
    offset_weight=number(train, section, "loss_weight"),
    normalizer_start=number(train, section, "init_loss_norm"),
  )


def decode_config(
  values: Mapping[str, Any],
) -> actionformer_decoding.ActionFormerDecodeConfig:
  """Returns the decoding config, without the external classifier."""
  test, section = values["test_cfg"], "test_cfg"
  method = test["nms_method"]
  if method not in _NMS_METHODS:
    raise ValueError(
      f"test_cfg.nms_method is {method!r:.60}; expected one of "
      f"{', '.join(_NMS_METHODS)}."
    )
  class_wise = bool(test["multiclass_nms"])
  votes = method == "soft" and not class_wise
  return actionformer_decoding.ActionFormerDecodeConfig(
    num_kept=whole(test, section, "max_seg_num"),
    num_candidates=whole(test, section, "pre_nms_topk"),
    sigma=number(test, section, "nms_sigma") if method == "soft" else 0.0,
    min_score=number(test, section, "min_score"),
    class_wise=class_wise,
    # The public program votes only if classes suppress each other.
    vote_iou=number(test, section, "voting_thresh") if votes else 0.0,
    min_candidate_score=number(test, section, "pre_nms_thresh"),
    min_length=number(test, section, "duration_thresh"),
  )


def _streams(values) -> tuple[tuple[int, ...], tuple[int, ...]]:
  """Returns (widths, projected widths) of the streams; () for a single one."""
  given = values["dataset"]["input_dim"], values["model"]["embd_dim"]
  if not any(isinstance(value, list | tuple) for value in given):
    return (), ()
  if not all(isinstance(value, list | tuple) for value in given):
    raise ValueError(
      "dataset.input_dim and model.embd_dim must both be lists, or neither: "
      f"got {given[0]!r:.60} and {given[1]!r:.60}."
    )
  streams = numbers(given[0], int, "dataset.input_dim")
  return streams, numbers(given[1], int, "model.embd_dim", count=len(streams))


def whole(values, section: str, key: str) -> int:
  """Returns the integer value of a key."""
  return numbers([values[key]], int, f"{section}.{key}")[0]


def number(values, section: str, key: str) -> float:
  """Returns the numeric value of a key."""
  return numbers([values[key]], float, f"{section}.{key}")[0]


def numbers(values, kind: type, name: str, *, count: int | None = None):
  """Returns a tuple of `kind`; raises a ValueError for other values."""
  kinds = (int,) if kind is int else (int, float)
  if not isinstance(values, list | tuple) or not all(
    type(value) in kinds for value in values
  ):
    raise ValueError(
      f"{name}: got {values!r:.60}, expected "
      f"{'whole numbers' if kind is int else 'numbers'}."
    )
  if count is not None and len(values) != count:
    raise ValueError(f"{name}: got {len(values)} numbers, expected {count}.")
  return tuple(kind(value) for value in values)
