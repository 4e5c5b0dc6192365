"""Compiled programs come from the user's own cache alone."""

import os
import pathlib
import subprocess
import sys

import pytest

ADD = "x + 1"
HIJACK = "x * 1000"
PROGRAM = """
import jax
from clap_jax.training import compilation
compilation.keep_programs()
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)

@jax.jit
def changed(x):
  return {expression}

print(changed(jax.numpy.float32(4)))
"""


def run(expression, cache, *, cwd, expected=0):
  environment = {
    "PATH": os.environ["PATH"],
    "PYTHONPATH": str(pathlib.Path(__file__).parents[2]),
    "JAX_PLATFORMS": "cpu",
    "XDG_CACHE_HOME": str(cache),
  }
  done = subprocess.run(
    [sys.executable, "-c", PROGRAM.format(expression=expression)],
    cwd=cwd,
    env=environment,
    capture_output=True,
    text=True,
    timeout=120,
    check=False,
  )
  assert done.returncode == expected, done.stderr
  return done.stdout + done.stderr


def kept(cache):
  (entry,) = (cache / "clap_jax" / "compiled").glob("jit_changed*-cache")
  return entry


def test_a_planted_program_of_a_run_folder_is_not_executed(tmp_path):
  """A cache is machine code: what is planted there runs."""
  own, attacker = tmp_path / "own", tmp_path / "attacker"
  assert run(ADD, own, cwd=tmp_path).startswith("5")
  entry = kept(own)
  run(HIJACK, attacker, cwd=tmp_path)
  planted = kept(attacker)
  received = tmp_path / "received"
  (received / "compiled").mkdir(parents=True)
  (received / "compiled" / entry.name).write_bytes(planted.read_bytes())
  fresh = tmp_path / "fresh"
  assert run(ADD, fresh, cwd=received).startswith("5")
  # It would have been, had the folder of the run been the cache.
  entry.write_bytes(planted.read_bytes())
  assert run(ADD, own, cwd=tmp_path).startswith("4000")


@pytest.mark.parametrize("mode", [0o777, 0o770])
def test_a_cache_that_others_can_write_is_refused(tmp_path, mode):
  folder = tmp_path / "clap_jax" / "compiled"
  folder.mkdir(parents=True)
  folder.chmod(mode)
  assert "PermissionError" in run(ADD, tmp_path, cwd=tmp_path, expected=1)


def test_a_cache_that_is_a_link_is_refused(tmp_path):
  (tmp_path / "clap_jax").mkdir()
  (tmp_path / "elsewhere").mkdir()
  (tmp_path / "clap_jax" / "compiled").symlink_to(tmp_path / "elsewhere")
  assert "PermissionError" in run(ADD, tmp_path, cwd=tmp_path, expected=1)
