"""Parameters as a directory that other programs can read.

`weights.safetensors` holds the arrays under the names they have here
("params/text_tower/norm/scale"), `manifest.json` what they are: the towers'
settings, where they come from, and the file's own sha256.
"""

import hashlib
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.flax
import safetensors.numpy

WEIGHTS_FILE = "weights.safetensors"
MANIFEST_FILE = "manifest.json"


def write(
  directory: str | os.PathLike,
  weights: Mapping[str, np.ndarray],
  facts: Mapping[str, Any],
) -> None:
  """Writes both files; the manifest last, so that it vouches for the other.

  Raises:
    FileExistsError: if the directory holds weights already.
  """
  directory = pathlib.Path(directory)
  if (directory / MANIFEST_FILE).exists():
    raise FileExistsError(
      f"{directory} holds weights already; give another directory."
    )
  directory.mkdir(parents=True, exist_ok=True)
  path = directory / WEIGHTS_FILE
  safetensors.numpy.save_file(
    {name: np.asarray(leaf, order="C") for name, leaf in weights.items()}, path
  )
  facts = {**facts, "weights_sha256": sha256(path)}
  text = json.dumps(facts, indent=1, sort_keys=True) + "\n"
  (directory / MANIFEST_FILE).write_text(text, encoding="utf-8")


def read(
  directory: str | os.PathLike,
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  """(name -> array, manifest) of a directory that `write` made.

  Raises:
    FileNotFoundError: if there is none.
    ValueError: if the weights are not those the manifest vouches for.
  """
  directory = pathlib.Path(directory)
  manifest, path = directory / MANIFEST_FILE, directory / WEIGHTS_FILE
  for file in (manifest, path):
    if not file.is_file():
      raise FileNotFoundError(
        f"{directory} holds no weights ({file.name} is missing). Give what "
        "`clap import` or `clap export` wrote."
      )
  facts = json.loads(manifest.read_text(encoding="utf-8"))
  found = sha256(path)
  if found != facts["weights_sha256"]:
    raise ValueError(
      f"{path} has sha256 {found}, its manifest says "
      f"{facts['weights_sha256']}: the file is damaged, make it again."
    )
  return load_safetensors(path), facts


def load_safetensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """Arrays of a safetensors file by name; bfloat16 becomes float32.

  Raises:
    ValueError: if it is none, is damaged, or has numbers of a type that is not
      read here.
  """
  try:
    arrays = safetensors.numpy.load_file(path)
  except TypeError:  # NumPy knows bfloat16 only where another package added it
    arrays = safetensors.flax.load_file(path)
  except (AttributeError, KeyError) as error:
    raise ValueError(f"{path}: a type that is not read: {error}") from error
  except safetensors.SafetensorError as error:
    raise ValueError(f"{path}: {error}") from error
  return {name: _widened(np.asarray(array)) for name, array in arrays.items()}


def _widened(array: np.ndarray) -> np.ndarray:
  is_bfloat16 = array.dtype.name == "bfloat16"
  return array.astype(np.float32) if is_bfloat16 else array


def sha256(path: str | os.PathLike) -> str:
  with open(path, "rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()
