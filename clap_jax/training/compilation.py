"""Caches compiled programs on disk for later processes.

They are machine code, which JAX runs unchecked. They are therefore kept in the
user's own cache and never in the folder of a run, which may come from a third
party.
"""

import os
import pathlib
import stat

import jax


def keep_programs() -> None:
  """Enables a compilation cache shared by all runs of the user.

  A folder set by the user (JAX_COMPILATION_CACHE_DIR) takes precedence.

  Raises:
    PermissionError: the cache folder does not belong to the user.
  """
  if jax.config.values["jax_compilation_cache_dir"]:
    return
  directory = _own_folder()
  jax.config.update("jax_compilation_cache_dir", str(directory))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
  jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _own_folder() -> pathlib.Path:
  root = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
  directory = pathlib.Path(root).absolute() / "clap_jax" / "compiled"
  directory.mkdir(mode=0o700, parents=True, exist_ok=True)
  status = directory.lstat()
  others_write = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
  if (
    not stat.S_ISDIR(status.st_mode)
    or status.st_uid != os.getuid()
    or others_write
  ):
    raise PermissionError(
      f"{directory} holds programs that this process would run, and others can "
      "write there; remove it, or set JAX_COMPILATION_CACHE_DIR to a folder "
      "of your own."
    )
  return directory
