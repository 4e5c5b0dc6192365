"""A temporary folder of one server, removed at its end or by the next one.

The folder is readable by its owner alone. A lock file in it is held as long as
the process lives: the operating system releases it even if that is killed, and
the next server removes what it left.
"""

import contextlib
import fcntl
import os
import pathlib
import shutil
import stat
import tempfile
from collections.abc import Iterator

_PREFIX = "clap_serve_"
_LOCK = "lock"
_FILES = "files"
_PRIVATE_FILE = 0o600


@contextlib.contextmanager
def private_folder() -> Iterator[pathlib.Path]:
  """Yields a new empty folder below the temporary one, then removes it.

  Folders that killed servers of the same user left are removed before.
  """
  remove_leftovers()
  folder, lock = _new_folder()
  try:
    files = folder / _FILES
    files.mkdir(mode=0o700)
    yield files
  finally:
    _remove(folder)
    os.close(lock)


def remove_leftovers() -> list[pathlib.Path]:
  """Removes the folders of servers that were killed and returns them."""
  root = pathlib.Path(tempfile.gettempdir())
  return [
    folder
    for folder in sorted(root.glob(f"{_PREFIX}*"))
    if _is_own(folder) and _remove_unlocked(folder)
  ]


def create_file(path: pathlib.Path):
  """Opens a new file, readable by its owner alone, for writing."""
  flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
  return os.fdopen(os.open(path, flags, _PRIVATE_FILE), "wb")


def _new_folder() -> tuple[pathlib.Path, int]:
  while True:
    folder = pathlib.Path(tempfile.mkdtemp(prefix=_PREFIX))
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
      lock = os.open(folder / _LOCK, flags, _PRIVATE_FILE)
    except FileNotFoundError:
      continue
    # Another server that starts now may take the folder for a leftover until
    # the lock is held; then a new one is made.
    if _try_lock(lock) and os.fstat(lock).st_nlink:
      return folder, lock
    os.close(lock)


def _is_own(folder: pathlib.Path) -> bool:
  try:
    status = folder.lstat()
  except OSError:
    return False
  return (
    stat.S_ISDIR(status.st_mode)
    and status.st_uid == os.getuid()
    and stat.S_IMODE(status.st_mode) == 0o700
  )


def _remove_unlocked(folder: pathlib.Path) -> bool:
  """Removes a folder unless a living server holds its lock."""
  try:
    lock = os.open(
      folder / _LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    )
  except OSError:  # being made at this moment, or not a server's
    return False
  try:
    if not _try_lock(lock):
      return False
    return _remove(folder)
  finally:
    os.close(lock)


def _remove(folder: pathlib.Path) -> bool:
  """Removes the folder, the lock last, so that what stays is found again."""
  try:
    # Python follows no links below the folder while it removes.
    with contextlib.suppress(FileNotFoundError):
      shutil.rmtree(folder / _FILES)
    (folder / _LOCK).unlink(missing_ok=True)
    folder.rmdir()
  except OSError:
    return False
  return True


def _try_lock(lock: int) -> bool:
  try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except OSError:
    return False
  return True
