"""PyTorch files of nested dictionaries of arrays, written without PyTorch."""

import pathlib
import struct
import zipfile

import numpy as np

_CLASSES = {
  "<f4": "FloatStorage",
  "<f2": "HalfStorage",
  "<f8": "DoubleStorage",
  "<i8": "LongStorage",
  "|u1": "ByteStorage",
}


def text(value: str) -> bytes:
  return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
  return b"J" + struct.pack("<i", value)


def program(body: bytes) -> bytes:
  return b"\x80\x02" + body + b"."


def save(path: pathlib.Path, tree) -> pathlib.Path:
  """Writes a zip archive as torch.save does."""
  storages: list[bytes] = []
  body = _node(tree, storages)
  with zipfile.ZipFile(path, "w") as archive:
    archive.writestr("archive/data.pkl", program(body))
    archive.writestr("archive/byteorder", b"little")
    for index, storage in enumerate(storages):
      archive.writestr(f"archive/data/{index}", storage)
  return path


def save_scripted(path: pathlib.Path, tensors) -> pathlib.Path:
  """Writes tensors by dotted names as torch.jit.save lays a module out."""
  storages: list[bytes] = []
  tree: dict = {}
  for name, array in tensors.items():
    *parents, leaf = name.split(".")
    module = tree
    for parent in parents:
      module = module.setdefault(parent, {})
    module[leaf] = array
  body = _scripted(tree, storages)
  root = path.stem
  with zipfile.ZipFile(path, "w") as archive:
    archive.writestr(f"{root}/data.pkl", program(body))
    archive.writestr(f"{root}/code/__torch__.py", "class Module(Module):\n")
    archive.writestr(f"{root}/constants.pkl", program(b")"))
    for index, storage in enumerate(storages):
      archive.writestr(f"{root}/data/{index}", storage)
    archive.writestr(f"{root}/version", "3\n")
  return path


def _scripted(module: dict, storages) -> bytes:
  attributes = b"".join(
    text(name)
    + (_scripted if isinstance(child, dict) else _tensor)(child, storages)
    for name, child in module.items()
  )
  return b"c__torch__\nModule\n)\x81}(" + attributes + b"ub"


def _node(value, storages) -> bytes:
  if isinstance(value, dict):
    items = b"".join(
      text(key) + _node(child, storages) for key, child in value.items()
    )
    return b"}(" + items + b"u"
  if isinstance(value, np.ndarray):
    return _tensor(value, storages)
  if isinstance(value, int):
    return number(value)
  return text(value)


def _numbers(values) -> bytes:
  return b"(" + b"".join(map(number, values)) + b"t"


def _tensor(array: np.ndarray, storages) -> bytes:
  array = np.asarray(array, order="C")
  reference = (
    b"("
    + text("storage")
    + f"ctorch\n{_CLASSES[array.dtype.str]}\n".encode()
    + text(str(len(storages)))
    + text("cpu")
    + number(array.size)
    + b"tQ"
  )
  storages.append(array.tobytes())
  strides = [step // array.itemsize for step in array.strides]
  return (
    b"ctorch._utils\n_rebuild_tensor_v2\n("
    + reference
    + number(0)
    + _numbers(array.shape)
    + _numbers(strides)
    + b"\x89ccollections\nOrderedDict\n)RtR"
  )
