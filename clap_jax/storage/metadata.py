"""Reads, checks and writes metadata files of runs and indexes.

Each is one JSON object with the number of its format. A change that would
misread files of earlier revisions increments that number in FORMATS; files
without a number predate it and count as 1.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from clap_jax.storage import locations, output, untrusted

FORMAT_KEY = "format"
_MAX_BYTES = 256 << 20  # the index of a million videos
# Limits far above the size of any model. An untrusted model is refused before
# its sizes are allocated or its layers traced.
_MAX_SIZE = 1 << 22
_MAX_FRAME = 1 << 13  # frames of a clip, pixels of a side
_MAX_LAYERS = 256
_MAX_SIZES: dict[str, int] = {
  **dict.fromkeys(("num_frames", "image_size"), _MAX_FRAME),
  **dict.fromkeys(
    (
      "num_levels",
      "num_stem_convs",
      "num_stem_blocks",
      "num_convs",
      "num_layers",
      "num_blocks",
      "num_encoder_layers",
      "num_decoder_layers",
    ),
    _MAX_LAYERS,
  ),
}
_POSITIVE = ("max_length", "feature_width", "query_length", "query_width")
# Sections and keys that affect no shape.
_UNSIZED = ("training", "files", "seed")
# Keys of a head's config that describe its model.
_MODEL_KEYS = (
  "localizer",
  "kind",
  "pyramid",
  "fusion",
  "head",
  "map",
  "detr",
  "graph",
  "model",
  "matcher",
  "decode",
)
_HEADS = ("localizer.json", "grounder.json", "fewshot.json")
_CONFIG_FILE = "config.json"
T = TypeVar("T")


class FormatError(ValueError):
  """Raised for a facts file that this revision cannot read."""


@dataclasses.dataclass(frozen=True)
class Format:
  """The format of a kind of file in this revision."""

  number: int
  keys: tuple[str, ...]  # that every reader needs
  remake: str  # what writes the file again


_TRAIN = "run its `clap train` again, in a new directory"
FORMATS = {
  "encoder.json": Format(
    1, ("encoder", "seed", "clip", "model", "training"), _TRAIN
  ),
  "localizer.json": Format(
    1,
    (
      "localizer",
      "label_names",
      "feature_width",
      "max_length",
      "standardization",
      "decode",
      "use_ema",
    ),
    _TRAIN,
  ),
  "grounder.json": Format(
    1,
    (
      "kind",
      "feature_width",
      "query_length",
      "query_width",
      "max_length",
      "pyramid",
      "fusion",
      "head",
      "map",
      "decode",
      "use_ema",
      "absence",
    ),
    _TRAIN,
  ),
  "fewshot.json": Format(
    1,
    (
      "feature_width",
      "max_length",
      "pyramid",
      "head",
      "matcher",
      "decode",
      "use_ema",
      "encoder_directory",
      "encoder_parameters",
      "stride_sec",
    ),
    _TRAIN,
  ),
  "model.json": Format(
    1, ("encoder", "stride_sec"), "write it again with these keys"
  ),
  "extracted.json": Format(
    1, ("encoder", "dataset"), "run `clap extract` again, in a new directory"
  ),
  "index.json": Format(
    1,
    (
      "encoder_directory",
      "parameters",
      "stride_sec",
      "clip_sec",
      "videos",
      "failed",
    ),
    "run `clap index` again, in a new directory",
  ),
}


def write(path: locations.Location, facts: Mapping[str, Any]) -> None:
  """Writes metadata with the number of its format; see `write_json`.

  Entries that a head's config.json next to it contains are omitted.
  """
  number = FORMATS[path.name].number
  if path.name in _HEADS and (path.parent / _CONFIG_FILE).is_file():
    stated = (*_MODEL_KEYS, "max_length", "length")
    facts = {key: facts[key] for key in facts if key not in stated}
  write_json(path, {FORMAT_KEY: number, **facts})


def write_json(path: locations.Location, document: Any) -> None:
  """Writes a file atomically; a file with equal content is not touched.

  Non-finite numbers become null, as JSON has no NaN.
  """
  text = json.dumps(without_nan(document), indent=1, allow_nan=False) + "\n"
  if path.is_file() and untrusted.read_text(path) == text:
    return
  output.write_text(path, text)


def without_nan(document: Any) -> Any:
  """Replaces non-finite numbers in JSON values by null."""
  if isinstance(document, Mapping):
    return {key: without_nan(value) for key, value in document.items()}
  if isinstance(document, list | tuple):
    return [without_nan(value) for value in document]
  if isinstance(document, float) and not math.isfinite(document):
    return None
  return document


def read(directory: locations.PathLike, name: str) -> dict:
  """Reads the metadata of a finished run, without its format number.

  That of a head is merged with the config of its run in the same folder.

  Args:
    name: name of the file, a key of FORMATS.

  Raises:
    FileNotFoundError: the run is not finished, or the directory holds none.
    FormatError: the file has another format or is damaged.
  """
  path = locations.at(directory) / name
  if not path.is_file():
    raise FileNotFoundError(
      f"{directory} holds no finished run (no {name}). Run its `clap train` to "
      "the end, or give another directory."
    )
  expected = FORMATS[name]
  try:
    facts = untrusted.read_json(name, folder=directory, max_bytes=_MAX_BYTES)
    if name in _HEADS and (path.parent / _CONFIG_FILE).is_file():
      config = untrusted.read_json(_CONFIG_FILE, folder=directory)
      if isinstance(config, dict) and isinstance(facts, dict):
        facts = of_config(config) | facts
  except untrusted.UntrustedFileError as error:
    raise FormatError(
      f"{path} cannot be used: {error}; copy it again, or {expected.remake}."
    ) from None
  return parse(facts, path)


def of_config(config: Mapping[str, Any]) -> dict:
  """Returns the part of a head's config (JSON) that describes its model."""
  facts = {key: config[key] for key in _MODEL_KEYS if key in config}
  data = config.get("data")
  if isinstance(data, Mapping):
    facts |= {"length": "pad"} | {
      key: data[key] for key in ("max_length", "length") if key in data
    }
  return facts


def parse(facts: Any, path: locations.Location) -> dict:
  """Checks the JSON document of a facts file; see `read`.

  Raises:
    FormatError: it has another format or is damaged.
  """
  expected = FORMATS[path.name]
  if not isinstance(facts, dict):
    raise FormatError(
      f"{path} holds a {type(facts).__name__}, expected an object: copy it "
      f"again, or {expected.remake}."
    )
  number = facts.pop(FORMAT_KEY, 1)
  if number != expected.number:
    raise FormatError(
      f"{path} has format {number!r}, expected {expected.number}: use the "
      f"revision of clap_jax that wrote it, or {expected.remake}."
    )
  missing = [key for key in expected.keys if key not in facts]
  if missing:
    raise FormatError(
      f"{path} has {', '.join(sorted(facts)) or 'no keys'}, but lacks "
      f"{', '.join(missing)}: an earlier revision of clap_jax wrote it. Use "
      f"that revision, or {expected.remake}."
    )
  return facts


def encoder_metadata(extraction: Mapping) -> dict:
  """Describes the features of a head: their encoder, files and timing.

  Unknown values are None; "files" is None for features of `clap extract`,
  "stride_sec" and "clip_sec" for others.
  """
  return {
    "encoder_directory": extraction.get("encoder_directory"),
    "encoder_parameters": extraction.get("parameters"),
    "stride_sec": extraction.get("stride_sec"),
    "clip_sec": extraction.get("clip", {}).get("clip_sec"),
    "files": extraction.get("files"),
  }


def load(
  directory: locations.PathLike, name: str, make: Callable[[dict], T]
) -> tuple[dict, T]:
  """Loads the facts and builds a model from them by `make`.

  Raises:
    FileNotFoundError: see `read`.
    FormatError: see `read`; or a section has unknown or missing keys, or values
      of another type or an absurd size.
  """
  facts = read(directory, name)
  path = locations.at(directory) / name
  return facts, build(facts, make, path=path, remake=FORMATS[name].remake)


def build(
  facts: dict,
  make: Callable[[dict], T],
  *,
  path: locations.Location,
  remake: str,
) -> T:
  """Builds a model from the metadata of a received file.

  Args:
    make: builds the model that the facts describe.
    remake: command that recreates the file, for messages.

  Raises:
    FormatError: see `load`.
  """
  try:
    _check_sizes(facts)
    _check_shared(facts)
    return make(facts)
  except (KeyError, TypeError, AttributeError, ValueError) as error:
    raise FormatError(
      f"{path} describes a model that this revision of clap_jax cannot build "
      f"({type(error).__name__}: {error}). Use the revision that wrote it, or "
      f"{remake}."
    ) from error


def _check_sizes(value: Any, key: str = "") -> None:
  """Raises a ValueError for a number too large for any model."""
  if isinstance(value, Mapping):
    for name, child in value.items():
      if name not in _UNSIZED:
        _check_sizes(child, name)
  elif isinstance(value, list):
    for child in value:
      _check_sizes(child, key)
  elif isinstance(value, float) and not math.isfinite(value):
    raise ValueError(f"{key} is {value}; expected a finite number")
  elif isinstance(value, int):
    most = _MAX_SIZES.get(key, _MAX_SIZE)
    if abs(value) > most:
      raise ValueError(f"{key} is {str(value)[:20]}; expected at most {most}")


def _check_shared(facts: Mapping[str, Any]) -> None:
  """Raises a ValueError for unusable values of keys common to heads."""
  for key in _POSITIVE:
    value = facts.get(key, 1)
    if type(value) is not int or value < 1:
      raise ValueError(f"{key} is {value!r}; expected a whole number above 0")
  names = facts.get("label_names", ["any"])
  if not isinstance(names, list) or not names:
    raise ValueError("label_names must be a list of texts")
  for name in names:
    if not isinstance(name, str) or not name.strip():
      raise ValueError(f"label_names has {name!r}; expected texts")
    name.encode()  # a lone surrogate cannot be printed or written
  if len(set(names)) < len(names):
    raise ValueError("label_names has a name twice")
