"""Exports a pre-training run for other programs.

It writes `weights.safetensors` with `manifest.json` (see training.weights),
`tokenizer`, and both towers as StableHLO: `video_tower.stablehlo` maps clips
and `text_tower.stablehlo` maps tokens to the shared space. The programs take
the weights by name as an argument, and any batch size.
"""

import dataclasses
import os
import pathlib
import re
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from clap_jax import config as config_lib
from clap_jax.evaluation import results
from clap_jax.inference import encoder as encoder_lib
from clap_jax.models import dual_encoder
from clap_jax.storage import output, untrusted
from clap_jax.training import paths, weights, workdir

VIDEO_FILE = "video_tower.stablehlo"
TEXT_FILE = "text_tower.stablehlo"
PLATFORMS = ("cpu", "cuda", "tpu")
_SCALARS = r"/logit_(scale|bias)$"  # needed to apply the model
# Settings that affect speed and memory, not the result; not exported.
_HOW_TO_COMPUTE = (
  "attention",
  "batch_norm_groups",
  "dtype",
  "query_chunk",
  "remat",
  "remat_policy",
)
# Allows for another order of float32 sums; outputs are unit vectors.
_TOLERANCE = 1e-4


@dataclasses.dataclass(frozen=True)
class Tower:
  """An exported tower; both return unit vectors float32 (b, d)."""

  call: Callable[..., jax.Array]  # (arrays by name, inputs...)
  names: tuple[str, ...]  # names of the weights it takes


def export(model: str | os.PathLike, out: str | os.PathLike) -> dict[str, Any]:
  """Exports a finished pre-training run to `out` and returns the manifest.

  The written programs are loaded, called, and compared with the run.

  Raises:
    FileNotFoundError: if `model` is not a finished pre-training run.
    FileExistsError: if `out` already contains weights.
    RuntimeError: if the outputs of the export and the run differ.
  """
  out = pathlib.Path(out)
  if (out / weights.MANIFEST_FILE).exists():
    raise FileExistsError(f"{out} already contains weights; use another --out.")
  encoder = encoder_lib.load_encoder(model)
  out.mkdir(parents=True, exist_ok=True)
  flat = {
    name: np.asarray(leaf)
    for name, leaf in paths.flatten(encoder.params).items()
  }
  files = {}
  for file, function, shapes, pattern in _towers(encoder):
    taken = {name: flat[name] for name in flat if re.search(pattern, name)}
    exported = jax.export.export(jax.jit(function), platforms=PLATFORMS)(
      taken, *shapes
    )
    output.write_bytes(out / file, exported.serialize())
    files[file] = {
      "sha256": weights.sha256(out / file),
      "weights": sorted(taken),
      "inputs": [f"{s.dtype}{list(map(str, s.shape))}" for s in shapes],
    }
  output.write_bytes(out / "tokenizer", encoder.tokenizer.model)
  weights.write(out, flat, _metadata(encoder) | {"files": files})
  _, metadata = weights.read(out)
  check(encoder, out)
  return metadata


def load_tower(directory: str | os.PathLike, file: str) -> Tower:
  """Loads an exported tower.

  Raises:
    FileNotFoundError: if the directory contains no export.
    ValueError: if the file's hash differs from the manifest.
  """
  directory = pathlib.Path(directory)
  path = directory / weights.MANIFEST_FILE
  if not path.is_file() or not (directory / file).is_file():
    raise FileNotFoundError(f"{directory} contains no export with {file}.")
  document = untrusted.read_json(weights.MANIFEST_FILE, folder=directory)
  try:
    metadata = document["files"][file]
    expected, names = metadata["sha256"], tuple(metadata["weights"])
  except (KeyError, TypeError) as error:
    raise ValueError(f"{path} does not describe {file}: {error!r}") from error
  if weights.sha256(file, folder=directory) != expected:
    raise ValueError(f"{directory / file} is damaged: export it again.")
  program = untrusted.read_bytes(file, folder=directory)
  return Tower(jax.export.deserialize(bytearray(program)).call, names)


def check(encoder: encoder_lib.Encoder, directory: str | os.PathLike) -> None:
  """Compares an export with its encoder on random inputs.

  Raises:
    RuntimeError: if they differ.
  """
  arrays, _ = weights.read(directory)
  rng = np.random.default_rng(0)
  for (file, function, shapes, _), batch in zip(
    _towers(encoder), (3, 2), strict=True
  ):
    tower = load_tower(directory, file)
    inputs = [_drawn(rng, batch, shape, encoder.config) for shape in shapes]
    kept = {name: arrays[name] for name in tower.names}
    got = np.asarray(tower.call(kept, *inputs))
    expected = np.asarray(jax.jit(function)(kept, *inputs))
    difference = float(np.abs(got - expected).max())
    if not difference <= _TOLERANCE:
      raise RuntimeError(
        f"{file} differs from the run by {difference}, expected at most "
        f"{_TOLERANCE}."
      )


def _towers(encoder: encoder_lib.Encoder):
  """Returns (file, function, input shapes, weight regex) of each tower."""
  config = encoder.config
  model = dual_encoder.DualEncoder(config)
  (batch,) = jax.export.symbolic_shape("b")

  def video(flat, frames):
    variables = paths.nest(flat)
    feature = model.apply(variables, frames, method="video_feature")
    return model.apply(variables, feature, method="project_video")

  def text(flat, tokens, mask):
    return model.apply(paths.nest(flat), tokens, mask, method="embed_text")

  side, length = config.image_size, config.max_text_length
  clip = (batch, config.num_frames, side, side, 3)
  return (
    (
      VIDEO_FILE,
      video,
      [jax.ShapeDtypeStruct(clip, np.uint8)],
      rf"/video_(tower|projection)/|{_SCALARS}",
    ),
    (
      TEXT_FILE,
      text,
      [
        jax.ShapeDtypeStruct((batch, length), np.int32),
        jax.ShapeDtypeStruct((batch, length), np.bool_),
      ],
      rf"/text_(tower|projection)/|{_SCALARS}",
    ),
  )


def _drawn(rng, batch, shape, config):
  sides = (batch, *shape.shape[1:])
  if shape.dtype == np.bool_:
    return np.arange(sides[1]) < rng.integers(2, sides[1] + 1, (batch, 1))
  high = 256 if shape.dtype == np.uint8 else config.vocab_size
  return rng.integers(0, high, sides).astype(shape.dtype)


def _metadata(encoder: encoder_lib.Encoder) -> dict[str, Any]:
  """Returns the manifest entries on the weights and their origin."""
  directory = encoder.directory

  def read(name):
    path = directory / name
    return untrusted.read_json(path) if path.is_file() else {}

  environment = read(workdir.ENVIRONMENT_FILE)
  return {
    "kind": "export",
    "encoder": encoder.name,
    "seed": encoder.seed,
    "clip": config_lib.as_dict(encoder.clip),
    "settings": {
      key: value
      for key, value in config_lib.as_dict(encoder.config).items()
      if key not in _HOW_TO_COMPUTE
    },
    "training": encoder.training,
    "config": read(workdir.CONFIG_FILE),
    "tokenizer_sha256": encoder.tokenizer.hash,
    "git_revision": environment.get("revision"),
    "packages": environment.get("packages"),
    "metrics": results.read(directory),
  }
