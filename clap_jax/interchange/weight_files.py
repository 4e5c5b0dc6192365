"""Finds the weight file of a directory and reads its arrays."""

import os
import pathlib

import numpy as np

from clap_jax.interchange import torch_file
from clap_jax.storage import arrays, tensors, untrusted

# Names of weights files in a directory, by precedence.
_NAMES = (
  "model.safetensors",
  "open_clip_model.safetensors",
  "pytorch_model.bin",
  "open_clip_pytorch_model.bin",
  "model.safetensors.index.json",
  "pytorch_model.bin.index.json",
)
# Variants of another precision or kind, such as model.fp16.safetensors.
_VARIANTS = (
  "model.*.safetensors",
  "open_clip_model.*.safetensors",
  "pytorch_model.*.bin",
)
_SHARD = "-of-"  # part of the names of shards
_INDEX_SUFFIX = ".index.json"
_TORCH_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".tar")
_MAX_INDEX_BYTES = 64 << 20
_MAX_SHARDS = 1 << 10


def find(path: str | os.PathLike) -> pathlib.Path:
  """Finds the weights file of a path.

  Args:
    path: a file, or a directory in Hugging Face's layout.

  Raises:
    FileNotFoundError: if it is neither.
    ValueError: if the directory contains several variants and no plain file.
  """
  path = pathlib.Path(path)
  if not path.is_dir():
    if not path.exists():
      raise FileNotFoundError(f"There is no file or directory {path}.")
    return path
  for name in _NAMES:
    if (path / name).exists():
      return path / name
  variants = sorted(
    file
    for pattern in _VARIANTS
    for file in path.glob(pattern)
    if _SHARD not in file.name
  )
  if len(variants) > 1:
    raise ValueError(
      f"{path} contains several files of weights; pass one of them: "
      f"{', '.join(file.name for file in variants)}."
    )
  if not variants:
    raise FileNotFoundError(
      f"{path} is not a directory with one of {', '.join(_NAMES + _VARIANTS)}; "
      "give the file."
    )
  return variants[0]


def read(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """Reads the arrays of a weights file, or of all files of an index, by name.

  Raises:
    ValueError: if the kind of file is unknown or a file is damaged.
    FileNotFoundError: if the file, or one in the index, does not exist.
  """
  path = pathlib.Path(path)
  if path.name.endswith(_INDEX_SUFFIX):
    found = _read_shards(path)
  elif path.suffix == ".safetensors":
    found = tensors.read(path)
  elif path.suffix == ".npz":
    found = arrays.read_npz(path, max_bytes=tensors.MAX_BYTES)
  elif path.suffix in _TORCH_SUFFIXES:
    found = torch_file.read(path)
  else:
    raise ValueError(
      f"{path}: unknown kind of weights; give .safetensors, .npz, "
      f"*{_INDEX_SUFFIX} or one of {', '.join(_TORCH_SUFFIXES)}."
    )
  for key in found:
    if not key.isprintable():  # it would be printed
      raise ValueError(f"{path}: {key!r:.100} is not a name of a tensor.")
  return found


def _read_shards(index: pathlib.Path) -> dict[str, np.ndarray]:
  document = untrusted.read_json(index, max_bytes=_MAX_INDEX_BYTES)
  places = document.get("weight_map") if isinstance(document, dict) else None
  if not isinstance(places, dict) or not places:
    raise ValueError(f"{index}: has no weight_map of tensors and files.")
  names = set(map(str, places.values()))
  if len(names) > _MAX_SHARDS:
    raise ValueError(f"{index}: names {len(names)} files, too many.")
  found: dict[str, np.ndarray] = {}
  for name in sorted(names):
    if pathlib.PurePath(name).name != name or name.endswith(_INDEX_SUFFIX):
      raise ValueError(
        f"{index}: {name!r:.100} is not a name of a file beside it."
      )
    if not (index.parent / name).exists():
      raise FileNotFoundError(
        f"{index.parent / name} is missing, which {index.name} names; download "
        "all files."
      )
  for name in sorted(names):
    # Links are followed: download caches consist of links.
    for key, array in read(index.parent / name).items():
      if places.get(key) != name:
        raise ValueError(
          f"{index.parent / name} holds {key!r:.100}, which {index.name} "
          "places elsewhere."
        )
      found[key] = array
  missing = sorted(places.keys() - found.keys())
  if missing:
    raise ValueError(
      f"{index} names {len(missing)} tensors that its files lack, "
      f"{missing[0]!r:.100} first; download all files again."
    )
  return found
