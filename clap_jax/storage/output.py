"""Writes files and objects atomically, without following links.

A folder from a third party may hold a link under the name of a file to be
written, or under a predictable temporary name. All files other than appended
ones are written by this module.
"""

import contextlib
import json
import os
import pathlib
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from typing import IO, Any, BinaryIO

from clap_jax.storage import locations, objects, untrusted
from clap_jax.storage.locations import ObjectPath, PathLike

_MAX_COPIED_BYTES = 1 << 44
_MAX_SENT_AT_ONCE = 32 << 20


class OutputError(ValueError):
  """Raised if a file must not be written to the requested path."""


def check_writable(
  path: PathLike, *, folder: PathLike | None = None, overwrite: bool = True
) -> None:
  """Checks in advance that a file can be written.

  Args:
    folder: a folder above the file; nothing below it may be a link.
    overwrite: whether a regular file may already be there.

  Raises:
    OutputError: the path is a link or a folder, the file exists and `overwrite`
      is False, or its folder is missing or not writable.
  """
  path = locations.at(path)
  if isinstance(path, ObjectPath):
    _check_object(path, overwrite=overwrite)
    return
  check_links(path, folder)
  with contextlib.suppress(FileNotFoundError):
    if not stat.S_ISREG(path.lstat().st_mode):
      raise OutputError(f"{path} exists and is not a regular file")
    if not overwrite:
      raise OutputError(f"{path} exists; name another file or remove it")
  parent = path.absolute().parent
  if not parent.is_dir():
    raise OutputError(f"cannot write {path}: the folder {parent} is missing")
  if not os.access(parent, os.W_OK | os.X_OK):
    raise OutputError(f"cannot write {path}: {parent} is not writable")


def _check_object(path: ObjectPath, *, overwrite: bool) -> None:
  if not path.name:
    raise OutputError(f"{path} names a bucket, expected an object in it")
  objects.check_bucket(path.scheme, path.bucket)
  if not overwrite and path.is_file():
    raise OutputError(f"{path} exists; name another file or remove it")


def check_links(path: PathLike, folder: PathLike | None = None) -> None:
  """Checks that no link leads a path out of its folder.

  Args:
    path: a file or a folder, which need not exist.
    folder: a folder above it; nothing below it may be a link. Without one, only
      the path itself may not.

  Raises:
    OutputError: there is a link.
  """
  path = locations.at(path)
  if isinstance(path, ObjectPath) or isinstance(folder, ObjectPath):
    return
  checked = [path]
  if folder is not None:
    below = path.absolute().relative_to(pathlib.Path(folder).absolute()).parts
    checked = [
      pathlib.Path(folder).joinpath(*below[: count + 1])
      for count in range(len(below))
    ]
  for each in checked:
    if each.is_symlink():
      raise OutputError(
        f"{each} is a symbolic link; remove it, links are not written through"
      )


@contextlib.contextmanager
def writing(
  path: PathLike,
  *,
  folder: PathLike | None = None,
  overwrite: bool = True,
  mode: int = 0o666,
) -> Iterator[IO[bytes]]:
  """Yields a binary file that appears as `path` when the block ends.

  Until then the bytes are in a file of random name in the same folder. If the
  block raises, it is removed and `path` is unchanged. File and folder are
  synced to disk.

  Args:
    path: the file; its folder exists.
    folder: a folder above the file; nothing below it may be a link.
    overwrite: whether a regular file may be replaced.
    mode: permissions before the umask.

  Raises:
    OutputError: as `check_writable`.
    OSError: the disk is full, or the folder is not writable.

  An object is uploaded when the block ends, from an unnamed file.
  """
  path = locations.at(path)
  if isinstance(path, ObjectPath):
    with _writing_object(path, overwrite=overwrite) as file:
      yield file
    return
  check_writable(path, folder=folder, overwrite=overwrite)
  temporary = path.with_name(f".{path.name[:200]}.{secrets.token_hex(8)}.tmp")
  flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
  descriptor = os.open(temporary, flags, mode)
  try:
    with os.fdopen(descriptor, "wb") as file:
      yield file
      file.flush()
      os.fsync(file.fileno())
    if overwrite:
      os.replace(temporary, path)
    else:
      # Unlike a rename, a hard link fails if another process was faster.
      os.link(temporary, path, follow_symlinks=False)
      os.unlink(temporary)
  except BaseException:
    with contextlib.suppress(FileNotFoundError):
      os.unlink(temporary)
    raise
  sync_folder(path.parent)


@contextlib.contextmanager
def _writing_object(
  path: ObjectPath, *, overwrite: bool
) -> Iterator[IO[bytes]]:
  if not path.name:
    raise OutputError(f"{path} names a bucket, expected an object in it")
  if not overwrite and path.is_file():
    raise OutputError(f"{path} exists; name another file or remove it")
  with tempfile.NamedTemporaryFile("w+b") as file:
    yield file
    file.flush()
    if not overwrite:
      file.seek(0)
      objects.create(path.scheme, path.key, file.read())
    else:
      _send(file, file.name, path)


def _send(file: IO[bytes], name: str, path: ObjectPath) -> None:
  """Writes an object from an open file of a name."""
  if untrusted.size_of(file) > _MAX_SENT_AT_ONCE:
    objects.upload(path.scheme, path.key, name)
  else:
    file.seek(0)
    objects.write(path.scheme, path.key, file.read())


def open_appending(path: PathLike) -> BinaryIO:
  """Opens a file for reading and appending; creates it if missing.

  Raises:
    OutputError: it is a link, a pipe or another special file, or an object,
      which cannot be appended to.
    OSError: it cannot be opened.
  """
  if isinstance(path, ObjectPath):
    raise OutputError(f"{path} is an object, which cannot be appended to")
  if pathlib.Path(path).exists() or pathlib.Path(path).is_symlink():
    check_writable(path)
  flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
  descriptor = os.open(path, flags | os.O_NONBLOCK, 0o666)
  if not stat.S_ISREG(os.fstat(descriptor).st_mode):
    os.close(descriptor)
    raise OutputError(f"{os.fspath(path)} is not a regular file")
  return os.fdopen(descriptor, "a+b")


def make_folder(
  path: PathLike, *, folder: PathLike | None = None
) -> locations.Location:
  """Creates an output folder with its parents and returns its path.

  Args:
    folder: a folder above it; nothing below it may be a link.

  Raises:
    OutputError: part of the path is a link or a file.
  """
  path = locations.at(path)
  check_links(path, folder)
  try:
    path.mkdir(parents=True, exist_ok=True)
  except FileExistsError as error:
    raise OutputError(f"{path} exists and is not a folder") from error
  return path


def remove_tree(folder: PathLike) -> None:
  """Removes a folder with its content, or all objects below a name.

  Raises:
    OSError: something cannot be removed.
  """
  folder = locations.at(folder)
  if not isinstance(folder, ObjectPath):
    shutil.rmtree(folder)
    return
  infos = folder.infos_below().values()
  objects.remove_all(folder.scheme, [info.key for info in infos])


def copy(source: PathLike, target: PathLike, **options: Any) -> None:
  """Copies a regular file; options and errors as `writing`."""
  with (
    untrusted.open_file(
      locations.at(source), max_bytes=_MAX_COPIED_BYTES
    ) as read,
    writing(target, **options) as file,
  ):
    shutil.copyfileobj(read, file)


@contextlib.contextmanager
def scratch_folder(near: PathLike) -> Iterator[pathlib.Path]:
  """Yields a temporary local folder: within `near`, for a bucket in TMPDIR."""
  near = locations.at(near)
  folder = None if isinstance(near, ObjectPath) else near
  with tempfile.TemporaryDirectory(prefix=".scratch-", dir=folder) as scratch:
    yield pathlib.Path(scratch)


def link(source: PathLike, target: PathLike) -> None:
  """Gives a finished file another name, without moving bytes if possible."""
  source, target = locations.at(source), locations.at(target)
  if isinstance(source, ObjectPath):
    if isinstance(target, ObjectPath) and source.scheme == target.scheme:
      objects.copy(source.scheme, source.key, target.key)
      return
  elif not isinstance(target, ObjectPath):
    with contextlib.suppress(OSError):  # a file system without hard links
      os.link(source, target)
      return
  copy(source, target)


def move(source: str | os.PathLike, target: PathLike) -> None:
  """Renames a finished file within its disk, or sends it to a bucket.

  An existing regular file of that name is replaced.

  Raises:
    OutputError: as `check_writable`.
    OSError: the folders are on different disks.
  """
  target = locations.at(target)
  if isinstance(target, ObjectPath):
    with untrusted.open_file(source, max_bytes=_MAX_COPIED_BYTES) as file:
      _send(file, os.fspath(source), target)
    os.unlink(source)
    return
  check_writable(target)
  os.replace(source, target)
  sync_folder(target.parent)


def sync_folder(folder: PathLike) -> None:
  """Syncs the entries of a folder to disk; does nothing for objects."""
  if isinstance(folder, ObjectPath):
    return
  descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


def write_bytes(
  path: PathLike, content: bytes | bytearray, **options: Any
) -> None:
  """Writes a file; options and errors as `writing`."""
  with writing(path, **options) as file:
    file.write(content)


def write_text(path: PathLike, text: str, **options: Any) -> None:
  """Writes UTF-8 text, keeping line ends; options and errors as `writing`.

  Lone surrogates, which names of files may hold, are escaped.
  """
  write_bytes(path, text.encode("utf-8", "backslashreplace"), **options)


def write_json(path: PathLike, document: Any, **options: Any) -> None:
  """Writes JSON without NaN; options and errors as `writing`.

  Raises:
    ValueError: the document holds a NaN or an infinity.
  """
  text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
  # Names of files may hold lone surrogates, which UTF-8 has not; their escape
  # by Python is that of JSON.
  write_bytes(path, f"{text}\n".encode("utf-8", "backslashreplace"), **options)
