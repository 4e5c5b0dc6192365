"""Opens files and objects of untrusted origin.

An untrusted file may be a link, a pipe, a device or far larger than expected,
and an untrusted folder may refer to files outside itself. Every file that this
project did not write in the same process is opened here. An object in a bucket
is first copied to an unnamed file, so that all guarantees for files hold; a
text that looks like an address is refused nevertheless, since an untrusted
document must not choose what is read (see `locations.at`).
"""

import hashlib
import json
import os
import pathlib
import re
import stat
import tempfile
from typing import IO, Any, BinaryIO

from clap_jax.storage import locations, objects
from clap_jax.storage.locations import ObjectPath, PathLike

DEFAULT_MAX_BYTES = 1 << 30  # of a file that is read whole
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")
_HASH_BLOCK_BYTES = 1 << 20
_SMALL_OBJECT_BYTES = 4 << 20  # that one request brings, whatever its size


class UntrustedFileError(ValueError):
  """Raised for a file that cannot be opened safely; names the file."""


def open_file(
  path: PathLike,
  *,
  folder: PathLike | None = None,
  max_bytes: int = DEFAULT_MAX_BYTES,
) -> BinaryIO:
  """Opens a regular file for reading.

  Args:
    path: a local path, or an address as an ObjectPath. With `folder`, a path
      relative to it.
    folder: folder that must contain the file. No component of `path` may be a
      link or lead out of the folder; the folder itself may be a link.
    max_bytes: maximum accepted size, checked before anything is read.

  Raises:
    UntrustedFileError: not a local path, not a regular file, too large, or
      outside the folder.
    OSError: the file cannot be opened, such as FileNotFoundError.
  """
  if isinstance(path, ObjectPath):
    return _open_object(path, max_bytes=max_bytes)
  if folder is not None:  # the caller's own, unlike a name within it
    folder = locations.at(folder)
  name = os.fspath(path)
  if not isinstance(name, str) or not name or "\0" in name:
    raise UntrustedFileError(f"{name!r} is not a file name")
  if _URL.match(name):
    raise UntrustedFileError(
      f"{name!r} looks like an address; expected the path of a local file "
      "(write ./ before a name with a colon)"
    )
  if isinstance(folder, ObjectPath):
    _check_inside(name, folder)
    return _open_object(folder / name, max_bytes=max_bytes)
  # Without O_NONBLOCK, opening a pipe would wait for its writer forever.
  flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
  if folder is None:
    descriptor = os.open(name, flags)
  else:
    descriptor = _open_inside(name, folder, flags)
  try:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
      raise UntrustedFileError(f"{name} is not a regular file")
    if status.st_size > max_bytes:
      raise UntrustedFileError(
        f"{name} has {status.st_size} bytes; at most {max_bytes} are read"
      )
    return os.fdopen(descriptor, "rb")
  except BaseException:
    os.close(descriptor)
    raise


def _open_object(path: ObjectPath, *, max_bytes: int) -> BinaryIO:
  """Returns a private, unnamed copy of an object."""
  if not path.name:
    raise UntrustedFileError(f"{path} names a bucket, expected an object in it")
  limit = min(max_bytes, _SMALL_OBJECT_BYTES)
  content = objects.read_start(path.scheme, path.key, limit + 1)
  size = len(content)
  if size > limit:  # a large object, or one that is refused
    size = path.stat().st_size
    if size > max_bytes:
      raise UntrustedFileError(
        f"{path} has {size} bytes; at most {max_bytes} are read"
      )
  copy = tempfile.TemporaryFile("w+b")  # noqa: SIM115  (the caller's)
  try:
    if size == len(content):
      copy.write(content)
    else:
      objects.download(path.scheme, path.key, copy, size=size)
    copy.seek(0)
  except BaseException:
    copy.close()
    raise
  return copy


def size_of(file: IO[bytes]) -> int:
  """Returns the size of an opened file in bytes."""
  return os.fstat(file.fileno()).st_size


def _open_inside(name: str, folder: pathlib.Path, flags: int) -> int:
  """Opens folder/name component by component, following no link."""
  parts = _check_inside(name, folder)
  directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
  try:
    for part in parts[:-1]:
      inner = _open_without_links(
        part, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, directory, name
      )
      os.close(directory)
      directory = inner
    return _open_without_links(parts[-1], flags, directory, name)
  finally:
    os.close(directory)


def _check_inside(name: str, folder: PathLike) -> tuple[str, ...]:
  """Returns the components of a relative path that does not lead upwards."""
  parts = pathlib.PurePosixPath(name).parts
  if not parts or parts[0] == "/" or ".." in parts:
    raise UntrustedFileError(
      f"{name!r} leads out of {folder}; expected a relative path"
    )
  return parts


def _open_without_links(part: str, flags: int, directory: int, name: str):
  try:
    return os.open(part, flags | os.O_NOFOLLOW, dir_fd=directory)
  except OSError as error:
    try:
      mode = os.stat(part, dir_fd=directory, follow_symlinks=False).st_mode
    except OSError:
      raise error from None
    if stat.S_ISLNK(mode):
      raise UntrustedFileError(
        f"{name} is or passes through a symbolic link, which is not followed"
      ) from error
    raise


def read_bytes(
  path: PathLike,
  *,
  folder: PathLike | None = None,
  max_bytes: int = DEFAULT_MAX_BYTES,
) -> bytes:
  """Returns the bytes of a file; arguments and errors as `open_file`."""
  with open_file(path, folder=folder, max_bytes=max_bytes) as file:
    # Reads allocate the requested size, and a file may grow meanwhile.
    size = size_of(file)
    content = file.read(size + 1)
  if len(content) > size:
    raise UntrustedFileError(f"{path} has more bytes than its size, {size}")
  return content


def decode_text(content: bytes, *, name: PathLike) -> str:
  """Decodes UTF-8, or UTF-16 or UTF-8 with a byte order mark.

  Raises:
    UntrustedFileError: the bytes are of another encoding; the message has
      `name` and the line.
  """
  has_utf16_mark = content.startswith((b"\xff\xfe", b"\xfe\xff"))
  encoding = "utf-16" if has_utf16_mark else "utf-8-sig"
  try:
    return content.decode(encoding)
  except UnicodeDecodeError as error:
    line = content.count(b"\n", 0, error.start) + 1
    raise UntrustedFileError(
      f"{name}, line {line}: byte {error.start} is not "
      f"{encoding.removesuffix('-sig').upper()} "
      "text; save the file as UTF-8"
    ) from error


def read_text(
  path: PathLike,
  *,
  folder: PathLike | None = None,
  max_bytes: int = DEFAULT_MAX_BYTES,
) -> str:
  """Returns the text of a file in UTF-8, or UTF-16 with a byte order mark.

  Line ends are kept. Arguments and errors as `open_file` and `decode_text`.
  """
  content = read_bytes(path, folder=folder, max_bytes=max_bytes)
  return decode_text(content, name=path)


def parse_json(text: str, *, name: PathLike) -> Any:
  """Parses one JSON document.

  Raises:
    UntrustedFileError: the text is not JSON, is nested too deeply, or an object
      repeats a key, which would silently drop a value.
  """
  try:
    return json.loads(text, object_pairs_hook=_unique_keys)
  except RecursionError as error:
    raise UntrustedFileError(
      f"{name} is not usable JSON: it is nested too deeply"
    ) from error
  except ValueError as error:
    raise UntrustedFileError(f"{name} is not JSON: {error}") from error


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  result = dict(pairs)
  if len(result) < len(pairs):
    keys = [key for key, _ in pairs]
    repeated = next(key for key in keys if keys.count(key) > 1)
    raise ValueError(f"an object has the key {repeated[:100]!r} twice")
  return result


def read_json(
  path: PathLike,
  *,
  folder: PathLike | None = None,
  max_bytes: int = DEFAULT_MAX_BYTES,
) -> Any:
  """Returns the JSON document of a file.

  Arguments and errors as `read_text` and `parse_json`.
  """
  text = read_text(path, folder=folder, max_bytes=max_bytes)
  return parse_json(text, name=path)


def hash_file(
  path: PathLike,
  *,
  folder: PathLike | None = None,
  max_bytes: int = DEFAULT_MAX_BYTES,
) -> str:
  """Returns the SHA-256 of a file in hexadecimal.

  Arguments and errors as `open_file`.
  """
  digest = hashlib.sha256()
  with open_file(path, folder=folder, max_bytes=max_bytes) as file:
    while block := file.read(_HASH_BLOCK_BYTES):
      digest.update(block)
  return digest.hexdigest()
