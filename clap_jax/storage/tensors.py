"""Reads safetensors files within limits.

A file has the length of a JSON header, the header with type, shape and offsets
of every tensor, and the data, which must fill the rest without gaps.
"""

import math
import struct
from typing import IO, Any

import numpy as np

from clap_jax.storage import archives, placeholders, untrusted
from clap_jax.storage.locations import PathLike
from clap_jax.storage.untrusted import UntrustedFileError

MAX_BYTES = 64 << 30
_MAX_HEADER_BYTES = 16 << 20
_MAX_DIMENSIONS = 32
_METADATA = "__metadata__"
_TYPES = {
  "F64": "<f8",
  "F32": "<f4",
  "F16": "<f2",
  "BF16": "<u2",  # the upper half of a float32
  "I64": "<i8",
  "I32": "<i4",
  "I16": "<i2",
  "I8": "i1",
  "U64": "<u8",
  "U32": "<u4",
  "U16": "<u2",
  "U8": "u1",
  "BOOL": "?",
}


def read(
  path: PathLike, *, folder: PathLike | None = None
) -> dict[str, np.ndarray]:
  """Returns the arrays of a safetensors file; bfloat16 becomes float32.

  Arguments as `untrusted.open_file`.

  Raises:
    UntrustedFileError: it is damaged, or holds numbers of an unsupported type.
    OSError: it cannot be opened.
  """
  name = str(path)
  with untrusted.open_file(path, folder=folder, max_bytes=MAX_BYTES) as file:
    placeholders.check(file, name=name)
    header, start = _read_header(file, name=name)
    places = sorted(
      (_place_of(key, entry, name=name) for key, entry in header.items()),
      key=lambda place: place[3],
    )
    size, end = untrusted.size_of(file) - start, 0
    arrays = {}
    for key, kind, shape, begin, stop in places:
      if begin != end:
        raise UntrustedFileError(
          f"{name}: {key!r:.100} begins at byte {begin} of the numbers, "
          f"expected {end}"
        )
      if stop > size:
        raise UntrustedFileError(
          f"{name} is cut short: {key!r:.100} ends at byte {stop} of {size}"
        )
      end = stop
      flat = np.empty(math.prod(shape), _TYPES[kind])
      if flat.nbytes:
        archives.read_into(file, flat.view(np.uint8).data)
      if kind == "BF16":
        flat = (flat.astype(np.uint32) << 16).view(np.float32)
      arrays[key] = flat.reshape(shape)
  if end != size:
    raise UntrustedFileError(
      f"{name} has {size - end} bytes that belong to no tensor"
    )
  return arrays


def _read_header(file: IO[bytes], *, name: str) -> tuple[dict[str, Any], int]:
  """Reads (entries of tensors by key, data offset)."""
  prefix = file.read(8)
  if len(prefix) != 8:
    raise UntrustedFileError(
      f"{name} is not a safetensors file: it is too short"
    )
  (length,) = struct.unpack("<Q", prefix)
  available = min(untrusted.size_of(file) - 8, _MAX_HEADER_BYTES)
  if length > available:
    raise UntrustedFileError(
      f"{name} is not a safetensors file, or cut short: its header claims "
      f"{length} bytes, expected at most {available}"
    )
  text = untrusted.decode_text(file.read(length), name=name)
  header = untrusted.parse_json(text, name=f"the header of {name}")
  if not isinstance(header, dict):
    raise UntrustedFileError(f"the header of {name} is not an object")
  header.pop(_METADATA, None)
  return header, 8 + length


def _place_of(key: str, entry: Any, *, name: str):
  """Returns (key, type, shape, first byte, end byte) of a tensor."""
  where = f"{name}: {key!r:.100}"
  try:
    kind, shape = entry["dtype"], entry["shape"]
    begin, end = entry["data_offsets"]
  except (KeyError, TypeError, ValueError) as error:
    raise UntrustedFileError(
      f"{where} lacks its dtype, shape or data_offsets"
    ) from error
  if kind not in list(_TYPES):
    raise UntrustedFileError(
      f"{where} has the type {kind!r:.40}, not read here; expected one of "
      f"{', '.join(_TYPES)}"
    )
  numbers = [*shape, begin, end] if isinstance(shape, list) else [None]
  if len(numbers) > _MAX_DIMENSIONS + 2 or not all(
    type(number) is int and 0 <= number < 1 << 48 for number in numbers
  ):
    raise UntrustedFileError(
      f"{where} has the shape {shape!r:.60} at {begin!r:.20} to {end!r:.20}"
    )
  size = math.prod(shape) * np.dtype(_TYPES[kind]).itemsize
  if end - begin != size:
    raise UntrustedFileError(
      f"{where} of shape {shape} takes {size} bytes, its range has "
      f"{end - begin}"
    )
  return key, kind, tuple(shape), begin, end
