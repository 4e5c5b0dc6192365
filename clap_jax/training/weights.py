"""Writes and reads parameters in a portable directory.

`weights.safetensors` holds the arrays under their names in this package
("params/text_tower/norm/scale"), `manifest.json` the towers' settings, the
origin of the weights, and the file's sha256.
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors.numpy

from clap_jax.storage import locations, output, tensors, untrusted

WEIGHTS_FILE = "weights.safetensors"
MANIFEST_FILE = "manifest.json"


def write(
  directory: locations.PathLike,
  weights: Mapping[str, np.ndarray],
  facts: Mapping[str, Any],
) -> None:
  """Writes both files, the manifest last, as it certifies the other.

  Raises:
    FileExistsError: the directory already holds weights.
  """
  directory = locations.at(directory)
  if (directory / MANIFEST_FILE).exists():
    raise FileExistsError(
      f"{directory} already holds weights; give another directory."
    )
  directory.mkdir(parents=True, exist_ok=True)
  arrays = {name: np.asarray(leaf, order="C") for name, leaf in weights.items()}
  path = directory / WEIGHTS_FILE
  output.write_bytes(path, safetensors.numpy.save(arrays))
  facts = {**facts, "weights_sha256": sha256(path)}
  text = json.dumps(facts, indent=1, sort_keys=True) + "\n"
  output.write_text(directory / MANIFEST_FILE, text)


def read(
  directory: locations.PathLike,
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  """Reads arrays by name and the manifest from a directory of `write`.

  Raises:
    FileNotFoundError: the directory holds no weights.
    ValueError: the weights do not match the manifest.
  """
  directory = locations.at(directory)
  manifest, path = directory / MANIFEST_FILE, directory / WEIGHTS_FILE
  for file in (manifest, path):
    if not file.is_file():
      raise FileNotFoundError(
        f"{directory} holds no weights ({file.name} is missing). Give what "
        "`clap import` or `clap export` wrote."
      )
  facts = untrusted.read_json(MANIFEST_FILE, folder=directory)
  if not isinstance(facts, dict) or "weights_sha256" not in facts:
    raise ValueError(f"{manifest} has no weights_sha256: recreate it.")
  found = sha256(WEIGHTS_FILE, folder=directory)
  if found != facts["weights_sha256"]:
    raise ValueError(
      f"{path} has sha256 {found}, its manifest says "
      f"{facts['weights_sha256']!r:.80}: the file is damaged, recreate it."
    )
  return tensors.read(WEIGHTS_FILE, folder=directory), facts


def sha256(path: locations.PathLike, **options: Any) -> str:
  """Returns the SHA-256 of a weights file; options as `hash_file`."""
  return untrusted.hash_file(path, max_bytes=tensors.MAX_BYTES, **options)
