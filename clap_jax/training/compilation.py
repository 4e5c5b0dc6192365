"""Compiled programs, kept on disk for the next process."""

import pathlib

import jax


def keep_programs(directory: pathlib.Path) -> None:
  """The runs of a comparison share their programs, and a rerun all.

  A folder that the user has chosen (JAX_COMPILATION_CACHE_DIR) is kept.
  """
  if jax.config.jax_compilation_cache_dir:
    return
  jax.config.update("jax_compilation_cache_dir", str(directory.absolute()))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
  jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
