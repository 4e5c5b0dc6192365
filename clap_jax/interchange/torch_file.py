"""Tensors of a PyTorch file, read without PyTorch and without running anything.

A `.pth` file is a program for a stack machine that may call any function of any
module; torch_program follows it without the means to do so. Both layouts are
read: the zip archive of PyTorch 1.6 and later, that of TorchScript included, as
OpenAI's CLIP is published, and the one before it, in which IG-65M and early
torchvision weights lie.
"""

import io
import math
import os
import pathlib
import zipfile
from typing import BinaryIO

import numpy as np

from clap_jax.interchange import torch_program
from clap_jax.interchange.torch_program import TorchFileError

_ZIP_BEGINS = b"PK\x03\x04"
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_MAX_PROGRAM_BYTES = 1 << 28
_MAX_NODES = 1 << 22
_MAX_PATH = 1 << 10  # characters
_MAX_SHARING = 16  # tensors of one number, on average


def read(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """Every tensor of the file by its path: "model.fc.weight".

  Parts of nested dictionaries are joined by dots; bfloat16 becomes float32.

  Raises:
    TorchFileError: naming what the file asks for that is no tensor, or what of
      it is damaged.
  """
  path = pathlib.Path(path)
  try:
    with path.open("rb") as file:
      if zipfile.is_zipfile(file):
        tree, storages = _read_zip(file)
      else:
        file.seek(0)
        if file.read(len(_ZIP_BEGINS)) == _ZIP_BEGINS:
          raise TorchFileError("a zip archive that is cut short.")
        file.seek(0)
        tree, storages = _read_legacy(file)
    tensors = _tensors_of(tree, storages)
  except TorchFileError as error:
    raise TorchFileError(f"{path}: {error}") from error
  except (
    zipfile.BadZipFile,
    AttributeError,
    EOFError,
    IndexError,
    KeyError,
    MemoryError,
    NotImplementedError,
    RecursionError,
    RuntimeError,
    TypeError,
  ) as error:
    raise TorchFileError(
      f"{path}: damaged: {type(error).__name__}: {error}"
    ) from error
  if not tensors:
    raise TorchFileError(f"{path}: holds no tensor.")
  return tensors


def _read_zip(file: BinaryIO):
  with zipfile.ZipFile(file) as archive:
    programs = [n for n in archive.namelist() if n.endswith("/data.pkl")]
    if len(programs) != 1:
      raise TorchFileError(
        f"expected one data.pkl in the archive, found {len(programs)}."
      )
    root = programs[0].removesuffix("data.pkl")
    order = f"{root}byteorder"
    if order in archive.namelist() and archive.read(order) != b"little":
      raise TorchFileError("its numbers are big-endian: save it again.")
    tree, wanted = torch_program.run(
      io.BytesIO(_member(archive, programs[0])),
      # torch.jit.save lays the module's code beside it; it is not looked at.
      scripted=any(n.startswith(f"{root}code/") for n in archive.namelist()),
    )
    storages = {
      key: _numbers(_member(archive, f"{root}data/{key}"), storage)
      for key, storage in wanted.items()
    }
  return tree, storages


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
  """A member that lies there as it is; others might unpack to anything."""
  info = archive.getinfo(name)
  if info.compress_type != zipfile.ZIP_STORED:
    raise TorchFileError(f"{name} is compressed, which PyTorch never writes.")
  if name.endswith("data.pkl") and info.file_size > _MAX_PROGRAM_BYTES:
    raise TorchFileError(f"{name} has {info.file_size} bytes, too many.")
  return archive.read(info)


def _read_legacy(file: BinaryIO):
  magic, _ = torch_program.run(file)
  if magic != _LEGACY_MAGIC:
    raise TorchFileError(
      "neither a zip archive nor an older PyTorch file; give a file that "
      "torch.save wrote, or .safetensors."
    )
  protocol, _ = torch_program.run(file)
  system, _ = torch_program.run(file)
  if protocol != _LEGACY_PROTOCOL or not system.get("little_endian"):
    raise TorchFileError(
      f"protocol {protocol}, system {system}: expected {_LEGACY_PROTOCOL}, "
      "little-endian."
    )
  tree, wanted = torch_program.run(file)
  keys, _ = torch_program.run(file)
  storages = {}
  for key in keys:
    count = int.from_bytes(file.read(8), "little")
    storage = wanted[key]
    if count != storage.count:
      raise TorchFileError(
        f"storage {key} has {count} numbers, expected {storage.count}."
      )
    body = file.read(count * storage.dtype.itemsize)
    storages[key] = _numbers(body, storage)
  return tree, storages


def _numbers(body: bytes, storage: torch_program.Storage) -> np.ndarray:
  if len(body) != storage.count * storage.dtype.itemsize:
    raise TorchFileError(
      f"storage {storage.key} has {len(body)} bytes, expected "
      f"{storage.count * storage.dtype.itemsize}: the file is cut short."
    )
  numbers = np.frombuffer(body, storage.dtype)
  if storage.is_bfloat16:
    return (numbers.astype(np.uint32) << 16).view(np.float32)
  return numbers


def _tensors_of(tree, storages) -> dict[str, np.ndarray]:
  """Tensors anywhere in `tree` by their path; all else is left behind."""
  tensors = {}
  arrays: dict[int, np.ndarray] = {}  # one for all places of a tensor
  free_bytes = _MAX_SHARING * sum(
    numbers.nbytes for numbers in storages.values()
  )
  waiting, num_visited = [("", tree)], 0
  while waiting:
    path, node = waiting.pop()
    num_visited += 1
    if num_visited > _MAX_NODES:  # containers within containers, shared
      raise TorchFileError(f"has more than {_MAX_NODES} parts.")
    if len(path) > _MAX_PATH:  # a container within itself
      raise TorchFileError(f"is nested too deeply: {path[:40]}...")
    if isinstance(node, torch_program.Tensor):
      if id(node) not in arrays:
        arrays[id(node)] = _array(node, storages[node.storage.key])
        free_bytes -= arrays[id(node)].nbytes
        if free_bytes < 0:
          raise TorchFileError("many tensors share the same few numbers.")
      tensors[path] = arrays[id(node)]
      continue
    if isinstance(
      node, torch_program.Global | torch_program.Inert | torch_program.Storage
    ):
      continue
    if isinstance(node, list | tuple):
      node = dict(enumerate(node))
    if isinstance(node, dict):
      waiting += [
        (f"{path}.{key}" if path else str(key), child)
        for key, child in reversed(node.items())
      ]
  return tensors


def _array(tensor: torch_program.Tensor, numbers: np.ndarray) -> np.ndarray:
  size = math.prod(tensor.shape)
  last = tensor.offset + sum(
    (side - 1) * step
    for side, step in zip(tensor.shape, tensor.strides, strict=True)
  )
  sane = tensor.offset >= 0 and all(
    n >= 0 for n in (*tensor.shape, *tensor.strides)
  )
  # No more elements than numbers: a stride of 0 could ask for any size.
  if not sane or (size and last >= numbers.size) or size > numbers.size:
    raise TorchFileError(
      f"a tensor of shape {tensor.shape}, strides {tensor.strides}, offset "
      f"{tensor.offset} reaches beyond its {numbers.size} numbers."
    )
  view = np.lib.stride_tricks.as_strided(
    numbers[tensor.offset :],
    tensor.shape,
    [step * numbers.itemsize for step in tensor.strides],
    writeable=False,
  )
  return np.array(view)
