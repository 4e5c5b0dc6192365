"""Makes a server's temporary folder, removed at exit or by the next server.

Only the owner can read the folder. The process locks a file in it while it
lives. The operating system releases the lock even if the process is killed,
and the next server then removes the folder.
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
  """Yields a new empty temporary folder, then removes it.

  It first removes the folders of killed servers of the same user.
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
  """Opens a new file for writing that only its owner can read."""
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
    # Until the lock is held, another server that starts may remove the folder;
    # the loop then makes a new one.
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
  """Removes a folder unless a running server holds its lock."""
  try:
    lock = os.open(
      folder / _LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    )
  except OSError:  # just being created, or not a server's folder
    return False
  try:
    if not _try_lock(lock):
      return False
    return _remove(folder)
  finally:
    os.close(lock)


def _remove(folder: pathlib.Path) -> bool:
  """Removes the folder, the lock last, so that a later call can resume."""
  try:
    # rmtree follows no links below the folder.
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
