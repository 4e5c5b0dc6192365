"""Reads tensors of PyTorch files without PyTorch or unpickling.

A `.pth` file is a program for a stack machine that may call any function of any
module; torch_program interprets it without calling anything. Two layouts are
read: the zip archive of PyTorch 1.6 and later, including TorchScript (OpenAI's
CLIP), and the older one (IG-65M and early torchvision weights).
"""

import io
import math
import os
import pathlib
import zipfile
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from clap_jax.interchange import torch_program
from clap_jax.interchange.torch_program import TorchFileError
from clap_jax.storage import archives, placeholders, untrusted

_ZIP_BEGINS = b"PK\x03\x04"
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_MAX_BYTES = 64 << 30
_MAX_PROGRAM_BYTES = 64 << 20
_MAX_ITEMS = 1 << 22  # items of all containers, counted at each visit
_MAX_NODES = 1 << 18  # containers and tensors
_MAX_PATH = 1 << 10  # characters
_MAX_SHARING = 16  # mean number of tensors that share a number


def read(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """Reads every tensor of a file by its path, such as "model.fc.weight".

  Keys of nested dictionaries are joined by dots; bfloat16 becomes float32.

  Raises:
    TorchFileError: if the file is damaged or uses more than tensors.
    OSError: if it cannot be opened.
  """
  path = pathlib.Path(path)
  try:
    with untrusted.open_file(path, max_bytes=_MAX_BYTES) as file:
      placeholders.check(file, name=path)
      is_zip = zipfile.is_zipfile(file)
      file.seek(0)
      if is_zip:
        with archives.open_archive(file, name=str(path)) as archive:
          tree, storages = _read_zip(archive)
      else:
        if file.read(len(_ZIP_BEGINS)) == _ZIP_BEGINS:
          raise TorchFileError("a zip archive that is cut short.")
        file.seek(0)
        tree, storages = _read_legacy(file)
    tensors = _tensors_of(tree, storages)
  except untrusted.UntrustedFileError as error:
    raise TorchFileError(str(error)) from error
  except TorchFileError as error:
    raise TorchFileError(f"{path}: {error}") from error
  except (
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


def _read_zip(archive: archives.Archive):
  programs = [n for n in archive.names if n.endswith("/data.pkl")]
  if len(programs) != 1:
    raise TorchFileError(
      f"expected one data.pkl in the archive, found {len(programs)}."
    )
  root = programs[0].removesuffix("data.pkl")

  def member(name: str, max_bytes: int) -> bytes:
    # PyTorch never compresses members; others might decompress to any size.
    return archive.read(f"{root}{name}", max_bytes=max_bytes, stored=True)

  has_order = f"{root}byteorder" in archive.names
  if has_order and member("byteorder", 16) != b"little":
    raise TorchFileError("its numbers are big-endian: save it again.")
  tree, wanted = torch_program.run(
    io.BytesIO(member("data.pkl", _MAX_PROGRAM_BYTES)),
    # torch.jit.save adds the module's code, which is not read.
    scripted=any(n.startswith(f"{root}code/") for n in archive.names),
  )
  storages = {
    key: _numbers(member(f"data/{key}", _MAX_BYTES), storage)
    for key, storage in wanted.items()
  }
  return tree, storages


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
      f"of another protocol than {_LEGACY_PROTOCOL}, or not little-endian."
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
    # read() allocates the requested size before it finds the end of the file.
    left = untrusted.size_of(file) - file.tell()
    body = file.read(min(count * storage.dtype.itemsize, left))
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
  """Returns all tensors in `tree` by path; other values are dropped."""
  tensors = {}
  arrays: dict[int, np.ndarray] = {}  # one per tensor, also if it recurs
  free_bytes = _MAX_SHARING * sum(
    numbers.nbytes for numbers in storages.values()
  )
  for path, tensor in _leaves(tree):
    if id(tensor) not in arrays:
      arrays[id(tensor)] = _array(tensor, storages[tensor.storage.key])
      free_bytes -= arrays[id(tensor)].nbytes
      if free_bytes < 0:
        raise TorchFileError("many tensors share the same few numbers.")
    tensors[path] = arrays[id(tensor)]
  return tensors


def _leaves(tree) -> Iterator[tuple[str, torch_program.Tensor]]:
  """Yields (path, tensor) of all; containers may repeat or be cyclic."""
  waiting, num_nodes, num_items = [("", tree)], 0, 0
  while waiting:
    path, node = waiting.pop()
    if isinstance(node, torch_program.Tensor):
      yield path, node
    if isinstance(
      node, torch_program.Global | torch_program.Inert | torch_program.Storage
    ):
      continue
    if not isinstance(node, dict | list | tuple):
      continue
    num_items += len(node)
    items = node.items() if isinstance(node, dict) else enumerate(node)
    children = []
    for key, child in items:
      if not isinstance(child, dict | list | tuple | torch_program.Tensor):
        continue
      inner = f"{path}.{key}" if path else str(key)
      if len(inner) > _MAX_PATH:  # for example a container in itself
        raise TorchFileError(f"is nested too deeply: {inner[:40]!r}...")
      children.append((inner, child))
    # Counted before queuing: a list may contain itself 10,000 times.
    num_nodes += len(children)
    if num_nodes > _MAX_NODES or num_items > _MAX_ITEMS:
      raise TorchFileError(f"has more than {_MAX_NODES} parts.")
    waiting += reversed(children)


def _array(tensor: torch_program.Tensor, numbers: np.ndarray) -> np.ndarray:
  size = math.prod(tensor.shape)
  last = tensor.offset + sum(
    (side - 1) * step
    for side, step in zip(tensor.shape, tensor.strides, strict=True)
  )
  sane = tensor.offset >= 0 and all(
    n >= 0 for n in (*tensor.shape, *tensor.strides)
  )
  # At most as many elements as numbers: a stride of 0 allows any size.
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
