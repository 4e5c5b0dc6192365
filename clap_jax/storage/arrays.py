"""Reads .npy and .npz files within limits and writes them atomically.

`numpy.load` allocates whatever a header claims, decompresses whatever an
archive holds and blocks on pipes. Here the header is checked against the file's
size before anything is allocated.
"""

import contextlib
import math
import re
import struct
from collections.abc import Iterator, Mapping
from typing import IO, Any

import numpy as np

from clap_jax.storage import archives, output, placeholders, untrusted
from clap_jax.storage.locations import PathLike
from clap_jax.storage.untrusted import UntrustedFileError

DEFAULT_MAX_BYTES = 4 << 30  # of a file, and of what it unpacks to
_MAGIC = b"\x93NUMPY"
_MAX_HEADER_BYTES = 10_000
_MAX_DIMENSIONS = 32
_MAX_MAPPED_BYTES = 1 << 46
_KINDS = "biufcUS"
_ENTRY = (
  r"""\s*['"](\w+)['"]\s*:\s*('[^']*'|"[^"]*"|True|False|\([\dL,\s]*\))"""
)
_HEADER = re.compile(rf"\{{{_ENTRY},{_ENTRY},{_ENTRY}\s*,?\s*\}}\s*")
_NUMBER = re.compile(r"(\d{1,15})L?")


class NpzArchive(Mapping[str, np.ndarray]):
  """Arrays of an .npz by name, each read on access."""

  def __init__(self, archive: archives.Archive, *, name: str, max_bytes: int):
    self._archive = archive
    self._name = name
    self._max_bytes = max_bytes
    self._members = {
      member.removesuffix(".npy"): member for member in archive.names
    }

  def __len__(self) -> int:
    return len(self._members)

  def __iter__(self) -> Iterator[str]:
    return iter(self._members)

  def __getitem__(self, key: str) -> np.ndarray:
    """Reads one array.

    Raises:
      KeyError: there is no array of this name.
      UntrustedFileError: it is damaged, or not an array of numbers or texts.
    """
    member = self._members[key]
    with self._archive.open(member, max_bytes=self._max_bytes) as (file, size):
      return _read_array(file, size, name=f"{self._name}, {key!r:.100}")


def read_npy(
  path: PathLike,
  *,
  folder: PathLike | None = None,
  max_bytes: int = DEFAULT_MAX_BYTES,
) -> np.ndarray:
  """Returns the array of an .npy file.

  Arguments as `untrusted.open_file`.

  Raises:
    UntrustedFileError: it is damaged, or not an array of numbers or texts.
    OSError: it cannot be opened.
  """
  with untrusted.open_file(path, folder=folder, max_bytes=max_bytes) as file:
    placeholders.check(file, name=path)
    return _read_array(file, untrusted.size_of(file), name=str(path))


@contextlib.contextmanager
def open_npz(
  path: PathLike,
  *,
  folder: PathLike | None = None,
  max_bytes: int = DEFAULT_MAX_BYTES,
) -> Iterator[NpzArchive]:
  """Opens the arrays of an .npz file; arguments and errors as `read_npy`."""
  with (
    untrusted.open_file(path, folder=folder, max_bytes=max_bytes) as file,
    archives.open_archive(file, name=str(path)) as archive,
  ):
    yield NpzArchive(archive, name=str(path), max_bytes=max_bytes)


def read_npz(path: PathLike, **options: Any) -> dict[str, np.ndarray]:
  """Returns all arrays of an .npz file; options and errors as `open_npz`."""
  with open_npz(path, **options) as archive:
    return dict(archive)


def map_npy(path: PathLike, *, folder: PathLike | None = None) -> np.ndarray:
  """Maps the array of an .npy file into memory, read-only.

  Arguments and errors as `read_npy`; only the header is read.
  """
  with untrusted.open_file(
    path, folder=folder, max_bytes=_MAX_MAPPED_BYTES
  ) as file:
    placeholders.check(file, name=path)
    dtype, shape, order, start = _read_header(file, name=str(path))
    _check_size(dtype, shape, untrusted.size_of(file) - start, name=str(path))
    if not math.prod(shape):
      return np.empty(shape, dtype, order)
    return np.memmap(file, dtype, "r", start, shape, order)


def write_npy(path: PathLike, array: np.ndarray, **options: Any) -> None:
  """Writes an .npy file; options and errors as `output.writing`."""
  with output.writing(path, **options) as file:
    np.save(file, array, allow_pickle=False)


def write_npz(
  path: PathLike, arrays: Mapping[str, Any], **options: Any
) -> None:
  """Writes an .npz file; options and errors as `output.writing`."""
  with output.writing(path, **options) as file:
    np.savez(file, allow_pickle=False, **arrays)


def _read_array(file: IO[bytes], size: int, *, name: str) -> np.ndarray:
  dtype, shape, order, start = _read_header(file, name=name)
  _check_size(dtype, shape, size - start, name=name)
  flat = np.empty(math.prod(shape), dtype)
  if flat.nbytes:
    try:
      archives.read_into(file, flat.view(np.uint8).data)
    except EOFError as error:
      raise UntrustedFileError(f"{name} is cut short: {error}") from error
  return flat.reshape(shape, order=order)


def _read_header(file: IO[bytes], *, name: str):
  """Reads (type, shape, "C" or "F", data offset) of an array."""

  def read(count: int) -> bytes:
    content = file.read(count)
    if len(content) != count:
      raise UntrustedFileError(f"{name} is cut short in its header")
    return content

  if file.read(len(_MAGIC)) != _MAGIC:
    raise UntrustedFileError(f"{name} is not a NumPy array (.npy)")
  major, _ = read(2)
  if major not in (1, 2, 3):
    raise UntrustedFileError(f"{name} has an unknown version, {major}")
  form = "<H" if major == 1 else "<I"
  (length,) = struct.unpack(form, read(struct.calcsize(form)))
  if length > _MAX_HEADER_BYTES:
    raise UntrustedFileError(
      f"{name} has a header of {length} bytes; at most {_MAX_HEADER_BYTES} "
      "are read"
    )
  header = read(length).decode("utf-8" if major == 3 else "latin-1", "replace")
  start = len(_MAGIC) + 2 + struct.calcsize(form) + length
  match = _HEADER.fullmatch(header.strip())
  parts = match.groups() if match else ()
  fields = dict(zip(parts[::2], parts[1::2], strict=True))
  if fields.keys() != {"descr", "fortran_order", "shape"}:
    raise UntrustedFileError(
      f"{name} is not a plain array: its header is {header!r:.100}; expected "
      "numbers or texts of one type"
    )
  dtype = _type_of(fields["descr"][1:-1], name=name)
  shape = _shape_of(fields["shape"], name=name)
  if fields["fortran_order"] not in ("True", "False"):
    raise UntrustedFileError(f"{name}: fortran_order is not a boolean")
  return dtype, shape, "F" if fields["fortran_order"] == "True" else "C", start


def _type_of(text: str, *, name: str) -> np.dtype:
  if not re.fullmatch(r"[<>|=]?[?a-zA-Z]\d{0,9}", text):
    raise UntrustedFileError(f"{name} has the type {text!r:.60}, unsupported")
  try:
    dtype = np.dtype(text)
  except (TypeError, ValueError) as error:
    raise UntrustedFileError(f"{name}: type {text!r:.60}: {error}") from error
  if dtype.kind not in _KINDS:
    raise UntrustedFileError(
      f"{name} holds {'Python objects' if dtype.hasobject else dtype}, which "
      "are not read; expected numbers or texts"
    )
  return dtype


def _shape_of(text: str, *, name: str) -> tuple[int, ...]:
  parts = [part.strip() for part in text[1:-1].split(",")]
  if parts[-1] == "":
    parts.pop()
  matches = [_NUMBER.fullmatch(part) for part in parts]
  if len(parts) > _MAX_DIMENSIONS or not all(matches):
    raise UntrustedFileError(
      f"{name} has the shape {text:.100}; expected at most {_MAX_DIMENSIONS} "
      "numbers below 10^15"
    )
  return tuple(int(match[1]) for match in matches if match)


def _check_size(dtype, shape, num_bytes: int, *, name: str) -> None:
  # Zeros are counted as ones: NumPy refuses such shapes beyond the 63 bits.
  widest = math.prod(max(side, 1) for side in shape) * max(dtype.itemsize, 1)
  count = math.prod(shape)
  needed = count * max(dtype.itemsize, 1)
  if widest > _MAX_MAPPED_BYTES or needed > num_bytes:
    raise UntrustedFileError(
      f"{name} claims {dtype}{list(shape)}, {needed} bytes; {num_bytes} are "
      "there"
    )
