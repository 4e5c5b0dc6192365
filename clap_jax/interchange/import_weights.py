"""Imports public weights to a directory for `clap train`.

It runs on the CPU and needs no other framework: the libraries of safetensors
and NumPy read their files, torch_file reads those of PyTorch.
"""

import dataclasses
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from clap_jax import config as config_lib
from clap_jax.data import vocabulary
from clap_jax.interchange import (
  bert,
  clip,
  config_beside,
  r2plus1d,
  rules,
  videomae,
  videoprism,
  weight_files,
  wrappers,
)
from clap_jax.interchange import source as source_lib
from clap_jax.models import dual_encoder, frames
from clap_jax.storage import output
from clap_jax.trainers import encoders
from clap_jax.training import paths, weights

SOURCES = {
  source.name: source
  for source in (
    r2plus1d.SOURCE,
    clip.OPENAI,
    clip.OPEN_CLIP,
    bert.SOURCE,
    videomae.SOURCE,
    videoprism.SOURCE,
  )
}

TOKENIZER_FILE = "tokenizer.json"
_NO_TOKENIZER = (
  "there is no tokenizer beside the weights, but texts need it; import again "
  "with --tokenizer"
)
_RECOLOURED = (
  "these weights expect another colour normalization; it was folded into the "
  "patch weights and positions"
)
# Placeholder sizes of parameters that a source lacks; they are dropped.
ELSEWHERE = {
  "video_size": "micro",
  "text_size": "micro",
  "num_frames": 16,
  "image_size": 112,
  "patch": (2, 16, 16),
  "vocab_size": 8,
  "max_text_length": 8,
  "projection_width": 8,
  "num_classes": 0,
}


@dataclasses.dataclass(frozen=True)
class Imported:
  """Result of an import: what was written, and the fate of each source key."""

  directory: pathlib.Path
  settings: dict[str, Any]  # fields of DualEncoderConfig
  num_parameters: int
  conversion: rules.Conversion
  clips: Mapping[str, Any]  # config keys, see source.Source
  file: str  # name of the weights file
  unwrapped: tuple[str, ...]  # see wrappers.Unwrapped

  @property
  def flags(self) -> tuple[str, ...]:
    """Returns the flags of `clap train` to start from these weights."""
    return (
      f"--config.start.imported={self.directory}",
      *(
        encoders.flag_of(key, value, self.directory)
        for key, value in self.settings.items()
        # Its flag names the tokenizer, which may be missing.
        if key != "vocab_size" or (self.directory / TOKENIZER_FILE).is_file()
      ),
      *(f"--config.{key}={value}" for key, value in self.clips.items()),
    )


def import_weights(
  path: str | os.PathLike,
  *,
  source: str,
  out: str | os.PathLike,
  options: source_lib.Options | None = None,
  tokenizer: str | os.PathLike | None = None,
  choice: str = wrappers.MODEL,
  metadata: Mapping[str, Any] | None = None,
  colours: frames.ColourScale | None = None,
) -> Imported:
  """Converts a weights file, or a directory in Hugging Face's layout.

  Args:
    path: .safetensors, .npz, a PyTorch file, the index of such files, or a
      directory with one of them.
    source: a key of SOURCES.
    options: settings that the weights do not contain.
    tokenizer: tokenizer.json, vocab.txt (WordPiece), or vocab.json beside
      merges.txt (BPE); None for a file beside the weights, if there is one.
    choice: one of wrappers.WEIGHTS.
    metadata: additional entries of the manifest.
    colours: colour normalization of the weights, if no config file states it;
      None for the tower's own.

  Raises:
    ValueError: if the file is damaged or contains more than tensors, or if
      keys, parameters or shapes do not match; all of them are listed.
    FileExistsError: if `out` already contains weights.
  """
  if source not in SOURCES:
    raise ValueError(
      f"Unknown source {source!r}; choose from {', '.join(SOURCES)}."
    )
  path, out = pathlib.Path(path), pathlib.Path(out)
  if (out / weights.MANIFEST_FILE).exists():
    raise FileExistsError(f"{out} already contains weights; use another --out.")
  file = weight_files.find(path)
  resolved = config_lib.resolve(
    source_lib.Options, dataclasses.asdict(options or source_lib.Options())
  )
  options = config_beside.with_heads(resolved, file, source=SOURCES[source])
  settings, conversion, unwrapped = _converted(
    file, SOURCES[source], options, choice=choice, colours=colours
  )
  pieces = None
  if "vocab_size" in settings:
    pieces = _vocabulary(tokenizer, file)
  elif tokenizer is not None:
    raise ValueError(
      f"No text tower is imported; omit the tokenizer {tokenizer}."
    )
  if pieces is not None and settings["vocab_size"] != pieces.vocab_size:
    raise ValueError(
      f"The tokenizer has {pieces.vocab_size} pieces, but the weights expect "
      f"{settings['vocab_size']}; pass the tokenizer of these weights."
    )
  written = {
    **(metadata or {}),
    "kind": "import",
    "source": source,
    "file": file.name,
    "file_sha256": weights.sha256(file),
    "unwrapped": list(unwrapped),
    "settings": settings,
    "left_out": conversion.left_out,
    "filled": conversion.filled,
    "tokenizer_sha256": pieces.hash if pieces else None,
  }
  out.mkdir(parents=True, exist_ok=True)
  if pieces is not None:
    output.write_bytes(out / TOKENIZER_FILE, pieces.model)
  weights.write(out, conversion.weights, written)
  count = sum(
    leaf.size
    for name, leaf in conversion.weights.items()
    if name.startswith("params/")
  )
  if pieces is None and "vocab_size" in settings:
    conversion = dataclasses.replace(
      conversion, filled=conversion.filled | {TOKENIZER_FILE: _NO_TOKENIZER}
    )
  clips = config_beside.clips(file, source=SOURCES[source])
  return Imported(out, settings, count, conversion, clips, file.name, unwrapped)


def _converted(file, source, options, *, choice, colours):
  """Returns (settings, conversion, lines on unwrapping) of a weights file."""
  unwrapped = wrappers.unwrap(
    weight_files.read(file),
    is_known=lambda key: any(
      re.fullmatch(rule.pattern, key) for rule in source.rules
    ),
    weights=choice,
  )
  tensors, removed = unwrapped.tensors, unwrapped.removed
  try:
    scale = source.recoloured and (config_beside.colours(file) or colours)
    if scale and scale != frames.CLIP and options.tower != "text":
      tensors = source.recoloured(tensors, scale)
      removed = (*removed, _RECOLOURED)
    settings, conversion = convert(tensors, source, options)
  except ValueError as error:
    raise ValueError("\n".join([f"{file}: {error}", *removed])) from (error)
  left_out = conversion.left_out | unwrapped.left_out
  conversion = dataclasses.replace(conversion, left_out=left_out)
  return settings, conversion, removed


def convert(
  tensors: rules.Tensors,
  source: source_lib.Source,
  options: source_lib.Options,
) -> tuple[dict[str, Any], rules.Conversion]:
  """Converts tensors of a source.

  Returns:
    The fields of DualEncoderConfig that the weights determine, and the weights.
    If `options.tower` names one tower, the other's keys are left out.
  """
  settings = source.settings(tensors, options)
  if options.tower != "both":
    if f"{options.tower}_tower" not in settings:
      raise ValueError(
        f"{source.name} has no {options.tower} tower; omit --tower."
      )
    source = _rules_of(source, options.tower)
  config = dual_encoder.DualEncoderConfig(**(ELSEWHERE | settings))
  conversion = rules.convert(
    tensors,
    rules=source.rules,
    fillings=source.fillings,
    expected={
      name: leaf
      for name, leaf in parameter_shapes(config).items()
      if re.search(source.covers, name)
    },
    context=rules.Context(
      tensors, patch=config.patch, max_text_length=config.max_text_length
    ),
  )
  return settings, conversion


def _rules_of(source: source_lib.Source, tower: str) -> source_lib.Source:
  """Restricts a source to one tower."""
  own = f"params/{tower}_"
  chosen = tuple(
    rule
    if not rule.targets or rule.targets[0].startswith(own)
    else rules.left_out(rule.pattern, f"not of the {tower} tower")
    for rule in source.rules
  )
  covers = rf"(?={own})(?:{source.covers})"
  return dataclasses.replace(source, rules=chosen, covers=covers)


def parameter_shapes(config: dual_encoder.DualEncoderConfig) -> dict[str, Any]:
  """Returns the shapes of all parameters of both towers by name."""
  side = config.image_size
  shapes = jax.eval_shape(
    dual_encoder.DualEncoder(config).init,
    jax.random.key(0),
    jax.ShapeDtypeStruct((1, config.num_frames, side, side, 3), np.uint8),
    jax.ShapeDtypeStruct((1, config.max_text_length), np.int32),
    jax.ShapeDtypeStruct((1, config.max_text_length), bool),
  )
  return paths.flatten(shapes)


def _vocabulary(tokenizer, file: pathlib.Path):
  if tokenizer is None:
    names = [TOKENIZER_FILE, "vocab.txt"]
    if file.with_name("merges.txt").is_file():
      names.append("vocab.json")
    beside = [file.with_name(name) for name in names]
    found = [path for path in beside if path.is_file()]
    if not found:
      return None
    tokenizer = found[0]
  return vocabulary.from_vocabulary(tokenizer)
