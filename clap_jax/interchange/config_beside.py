"""Reads the configs of Hugging Face and open_clip next to weights."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from clap_jax.interchange import source as source_lib
from clap_jax.models import frames
from clap_jax.storage import untrusted

_HUGGING_FACE = "config.json"
_MAX_BYTES = 16 << 20
_MAX_DEPTH = 8  # of nested dictionaries
_OPEN_CLIP = "open_clip_config.json"
# Hugging Face's prefixes of the keys of CLIP's towers, by Options.tower.
_TOWERS = {
  "both": {"text_config.", "vision_config."},
  "text": {"text_config."},
  "video": {"vision_config."},
}


def with_heads(
  options: source_lib.Options, file: pathlib.Path, *, source: source_lib.Source
) -> source_lib.Options:
  """Adds the number of heads of Hugging Face's config to the options.

  Args:
    options: options of the user; a number of heads in them is kept.
    source: the chosen source of the weights.

  Raises:
    ValueError: if a config beside the weights describes another kind.
  """
  config, of_open_clip = map(file.with_name, (_HUGGING_FACE, _OPEN_CLIP))
  values = _read(config)
  others = _TOWERS["both"] - _TOWERS[options.tower]
  requires = {
    key: value
    for key, value in source.requires.items()
    if not key.startswith(tuple(others))
  }
  said = values
  if values.get("model_type") == "clip":  # what it does not say is QuickGELU
    said = {f"{name}hidden_act": "quick_gelu" for name in _TOWERS["both"]}
    said |= values
  _check(config, said, requires)
  if of_open_clip.exists():
    # What it does not say is not QuickGELU.
    said = {"model_cfg.quick_gelu": False} | _read(of_open_clip)
    _check(of_open_clip, said, requires)
  # Both towers of CLIP have their own; where they differ no one number is it.
  heads = []
  for prefix in ("", *_TOWERS[options.tower]):
    value = values.get(f"{prefix}num_attention_heads")
    if value is not None and value not in heads:
      heads.append(value)
  if options.num_heads is not None or len(heads) != 1:
    return options
  (num_heads,) = heads
  if not isinstance(num_heads, int):
    raise ValueError(
      f"{config}: num_attention_heads is {num_heads!r}, expected a number."
    )
  return dataclasses.replace(options, num_heads=num_heads)


def clips(file: pathlib.Path, *, source: source_lib.Source) -> dict[str, Any]:
  """Returns the source's clip settings, updated from Hugging Face's config."""
  said = _read(file.with_name(_HUGGING_FACE))
  names = source.clips_said
  return {
    key: said[names[key]] if names.get(key) in said else value
    for key, value in source.clips.items()
  }


def colours(file: pathlib.Path) -> frames.ColourScale | None:
  """The scale of colours that open_clip's config states; None if it does not.

  Raises:
    ValueError: it has no three numbers each, or a spread is not above 0.
  """
  path = file.with_name(_OPEN_CLIP)
  said = _read(path)
  if not any(f"preprocess_cfg.{key}" in said for key in ("mean", "std")):
    return None
  return frames.ColourScale(
    *(
      _three(path, said, f"preprocess_cfg.{key}", default)
      for key, default in (("mean", frames.CLIP.mean), ("std", frames.CLIP.std))
    )
  )


def _three(path, said, key: str, default) -> tuple[float, float, float]:
  values = said.get(key, default)
  is_usable = (
    isinstance(values, list | tuple)
    and len(values) == 3
    and all(type(value) in (int, float) for value in values)
    and all(0 <= value <= 1 for value in values)
    and (key.endswith("mean") or min(values) > 0)
  )
  if not is_usable:
    raise ValueError(
      f"{path}: {key} is {values!r:.60}, expected three numbers from 0 to 1."
    )
  red, green, blue = map(float, values)
  return red, green, blue


def _read(path: pathlib.Path) -> dict[str, Any]:
  """Reads the values of a config; empty if there is no such file."""
  if not path.exists():
    return {}
  values = untrusted.read_json(path, max_bytes=_MAX_BYTES)
  if not isinstance(values, dict):
    raise ValueError(f"{path}: expected an object, got {values!r:.60}.")
  return _flat(values)


def _check(path, values, requires) -> None:
  wrong = [
    f"{key} is {values[key]!r}, expected {value!r}"
    for key, value in requires.items()
    if values.get(key, value) != value
  ]
  if wrong:
    raise ValueError(
      f"{path}: {'; '.join(wrong)}: no tower of this source is built so. Give "
      "the --source that fits, if there is one."
    )


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
  """Flattens nested dictionaries; joins their keys by dots."""
  flat = {}
  waiting = [((), values)]
  while waiting:
    keys, value = waiting.pop()
    if not isinstance(value, dict):
      flat[".".join(keys)] = value
    elif len(keys) < _MAX_DEPTH:
      waiting += [((*keys, key), child) for key, child in value.items()]
  return flat
