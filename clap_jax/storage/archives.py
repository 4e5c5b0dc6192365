"""Reads untrusted zip archives within limits.

An archive of a few kilobytes may claim any number of members, decompress to any
size, or refer to the same bytes many times. The bounds follow from the size of
the archive: stored members take no more than that, and compressed ones
decompress to a limited multiple.
"""

import contextlib
import struct
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO

from clap_jax.storage import placeholders, untrusted
from clap_jax.storage.untrusted import UntrustedFileError

# Names, sizes and places of 90,000 members.
_MAX_DIRECTORY_BYTES = 4 << 20
# Floats compress to a half; masks and zeros to a hundredth.
_MAX_RATIO = 100
_FREE_BYTES = 64 << 20  # allowed for any archive
_BLOCK_BYTES = 1 << 20
_DAMAGE = (
  zipfile.BadZipFile,
  zlib.error,
  struct.error,
  EOFError,
  IndexError,
  NotImplementedError,
  OSError,
  OverflowError,
  RuntimeError,  # an encrypted member
  UnicodeDecodeError,
)


class Archive:
  """An opened zip archive.

  Attributes:
    names: names of the members, in order.
  """

  def __init__(self, archive: zipfile.ZipFile, *, name: str, size: int):
    self._archive = archive
    self._name = name
    self._size = size
    self._num_bytes_read = 0
    self.names = archive.namelist()
    if len(set(self.names)) < len(self.names):
      raise UntrustedFileError(f"{name} has two members of the same name")

  @contextlib.contextmanager
  def open(
    self, member: str, *, max_bytes: int, stored: bool = False
  ) -> Iterator[tuple[IO[bytes], int]]:
    """Opens a member; yields (file, size), with reads limited to the size.

    Args:
      member: one of `names`.
      max_bytes: the largest size accepted.
      stored: whether to refuse a compressed member.

    Raises:
      UntrustedFileError: it is damaged, too large, or compressed by a method
        that NumPy and PyTorch never use.
    """
    info = self._archive.getinfo(member)
    is_stored = info.compress_type == zipfile.ZIP_STORED
    if not is_stored and (stored or info.compress_type != zipfile.ZIP_DEFLATED):
      raise UntrustedFileError(
        f"{self._name}: {member!r:.100} is compressed by method "
        f"{info.compress_type}, which is not supported; write the file again "
        "without compression"
      )
    if info.file_size > max_bytes:
      raise UntrustedFileError(
        f"{self._name}: {member!r:.100} has {info.file_size} bytes; at most "
        f"{max_bytes} are read"
      )
    self._num_bytes_read += info.file_size
    limit = self._size
    if not stored:
      limit = max(_MAX_RATIO * self._size, _FREE_BYTES)
    if self._num_bytes_read > limit:
      raise UntrustedFileError(
        f"{self._name} has {self._size} bytes and would decompress to "
        f"{self._num_bytes_read} or more; at most {limit} are read"
      )
    with self.explained(), self._archive.open(info) as file:
      yield file, info.file_size

  def read(self, member: str, *, max_bytes: int, stored: bool = False) -> bytes:
    """Returns a member's bytes; arguments and errors as `open`."""
    with self.open(member, max_bytes=max_bytes, stored=stored) as (file, size):
      content = bytearray(size)
      read_into(file, memoryview(content))
      return bytes(content)

  @contextlib.contextmanager
  def explained(self) -> Iterator[None]:
    try:
      yield
    except UntrustedFileError:
      raise
    except _DAMAGE as error:
      raise UntrustedFileError(
        f"{self._name} is damaged: {error or type(error).__name__}"
      ) from error


class _SmallReads:
  """A file with a bound on the size of each read.

  zipfile reads the central directory at once, whatever size it claims.
  """

  def __init__(self, file: IO[bytes]):
    self._file = file
    self.seek, self.tell = file.seek, file.tell

  def seekable(self) -> bool:
    return True

  def read(self, size: int = -1) -> bytes:
    limit = _MAX_DIRECTORY_BYTES
    content = self._file.read(min(size, limit + 1) if size >= 0 else limit + 1)
    if len(content) > limit:
      raise zipfile.BadZipFile("the list of its members is too long")
    return content


@contextlib.contextmanager
def open_archive(file: IO[bytes], *, name: str) -> Iterator[Archive]:
  """Opens an archive in a with statement.

  Args:
    file: file opened by `untrusted.open_file`.
    name: name of the file, for messages.

  Raises:
    UntrustedFileError: the file is not a zip archive, or damaged.
  """
  placeholders.check(file, name=name)
  size = untrusted.size_of(file)
  try:
    archive = zipfile.ZipFile(_SmallReads(file))
  except (*_DAMAGE, ValueError) as error:
    raise UntrustedFileError(
      f"{name} is damaged, or not a zip archive: {error}"
    ) from error
  with archive:
    yield Archive(archive, name=name, size=size)


def read_into(file: IO[bytes], target: memoryview) -> None:
  """Fills `target` from a file, block by block.

  Raises:
    EOFError: the file is too short.
  """
  filled = 0
  while filled < len(target):
    block = file.read(min(_BLOCK_BYTES, len(target) - filled))
    if not block:
      raise EOFError(f"it ends after {filled} of {len(target)} bytes")
    target[filled : filled + len(block)] = block
    filled += len(block)
