"""Writes files and objects whole or not at all, without following links.

A folder that was received from others may hold a link under the name of a
file that is about to be written, or under a predictable temporary name. Every
file that is not appended to is written here.
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
from typing import Any, BinaryIO

from clap_jax.storage import locations, objects, untrusted
from clap_jax.storage.locations import ObjectPath, PathLike

_MAX_COPIED_BYTES = 1 << 44
_MAX_SENT_AT_ONCE = 32 << 20


class OutputError(ValueError):
  """A file must not be written where it was asked for."""


def check_writable(
  path: PathLike, *, folder: PathLike | None = None, overwrite: bool = True
) -> None:
  """Checks before the work that a file can be written after it.

  Args:
    path: the file.
    folder: a folder above the file; nothing below it may be a link.
    overwrite: whether a regular file may already be there.

  Raises:
    OutputError: a link or a folder is in the way, the file exists and
      `overwrite` is false, or its folder is missing or not writable.
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
    raise OutputError(f"cannot write {path}: there is no folder {parent}")
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
  if isinstance(path, ObjectPath):
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
) -> Iterator[BinaryIO]:
  """Yields a binary file that appears as `path` when the block ends.

  Until then the bytes lie under a random name in the same folder. If the block
  raises, they are removed and `path` stays as it was. File and folder are
  synchronized to the disk.

  Args:
    path: the file; its folder exists.
    folder: a folder above the file; nothing below it may be a link.
    overwrite: whether a regular file may be replaced.
    mode: permissions before the umask.

  Raises:
    OutputError: as `check_writable`.
    OSError: the disk takes no more, or the folder cannot be written.

  An object is sent when the block ends, from a file without a name.
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
def _writing_object(path: ObjectPath, *, overwrite: bool) -> Iterator[BinaryIO]:
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
    elif file.tell() > _MAX_SENT_AT_ONCE:
      objects.upload(path.scheme, path.key, file.name)
    else:
      file.seek(0)
      objects.write(path.scheme, path.key, file.read())


def open_appending(path: PathLike) -> BinaryIO:
  """Opens a file to be read and appended to; it is made if it is missing.

  Raises:
    OutputError: it is a link, a pipe or another special file, or an object,
      to which nothing can be appended.
    OSError: it cannot be opened.
  """
  if isinstance(path, ObjectPath):
    raise OutputError(f"{path} is an object, to which nothing is appended")
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
  """Makes a folder to write to, with those above it, and returns its path.

  Args:
    path: the folder.
    folder: a folder above it; nothing below it may be a link.

  Raises:
    OutputError: a link or a file is in the way.
  """
  path = locations.at(path)
  check_links(path, folder)
  try:
    path.mkdir(parents=True, exist_ok=True)
  except FileExistsError as error:
    raise OutputError(f"{path} exists and is not a folder") from error
  return path


def remove_tree(folder: PathLike) -> None:
  """Removes a folder, or all objects below a name, with what lies below.

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


def rename(source: PathLike, target: PathLike) -> None:
  """Gives a finished file its name, in its folder or another of the disk.

  A regular file that has the name is replaced.

  Raises:
    OutputError: as `check_writable`.
    OSError: the folders are on different disks.
  """
  target = pathlib.Path(target)
  check_writable(target)
  os.replace(source, target)
  sync_folder(target.parent)


def sync_folder(folder: PathLike) -> None:
  """Synchronizes the names in a folder to the disk; objects need nothing."""
  if isinstance(folder, ObjectPath):
    return
  descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


def write_bytes(path: PathLike, content: bytes, **options: Any) -> None:
  """Writes a file; options and errors as `writing`."""
  with writing(path, **options) as file:
    file.write(content)


def write_text(path: PathLike, text: str, **options: Any) -> None:
  """Writes UTF-8 text with its line ends; options and errors as `writing`."""
  write_bytes(path, text.encode("utf-8"), **options)


def write_json(path: PathLike, document: Any, **options: Any) -> None:
  """Writes JSON without NaN; options and errors as `writing`.

  Raises:
    ValueError: the document holds a NaN or an infinity.
  """
  text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
  # Names of files may hold lone surrogates, which UTF-8 has not; their escape
  # by Python is that of JSON.
  write_bytes(path, f"{text}\n".encode("utf-8", "backslashreplace"), **options)
