"""requirements.lock: complete, hashed, and in step with what it is made of."""

import platform
import re
import subprocess
import sys
import venv

import pytest

from tests import conftest

_PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)")


def normal(name):
  return re.sub(r"[-_.]+", "-", name).lower()


def pins(text):
  return {
    normal(match[1]): match[2]
    for line in text.splitlines()
    if (match := _PIN.match(line))
  }


@pytest.fixture(scope="module")
def lock():
  return (conftest.REPOSITORY / "requirements.lock").read_text()


def test_every_package_has_a_hash(lock):
  lines = [line for line in lock.splitlines() if not line.startswith("#")]
  blocks = re.split(r"\n(?=\S)", "\n".join(lines).strip())
  assert len(blocks) > 80
  for block in blocks:
    assert _PIN.match(block), block
    assert re.search(r"--hash=sha256:[0-9a-f]{64}", block), block
  assert "://" not in lock  # no index, no address


def test_every_requirement_is_locked_at_the_tested_version(lock):
  locked = pins(lock)
  requirements = (conftest.REPOSITORY / "requirements.txt").read_text()
  for line in requirements.splitlines():
    name = re.match(r"[A-Za-z0-9._-]+", line)
    if name and not line.startswith("#"):
      assert normal(name[0]) in locked, f"{name[0]}: make the lock again"
  constraints = (conftest.REPOSITORY / "constraints.txt").read_text()
  tested = pins(
    "\n".join(
      line
      for line in constraints.splitlines()
      if 'python_version >= "3.12"' not in line
    )
  )
  for name, version in tested.items():
    if name in locked:
      assert locked[name] == version, f"{name}: make the lock again"


@pytest.mark.slow
def test_the_lock_installs_and_the_package_runs_from_it(tmp_path):
  """Into an environment of its own, every file checked by its hash."""
  if sys.version_info[:2] != (3, 11) or platform.machine() != "x86_64":
    pytest.skip("the lock is for Python 3.11 on x86-64 Linux")
  venv.create(tmp_path / "env", with_pip=True)
  python = tmp_path / "env" / "bin" / "python"
  lock = conftest.REPOSITORY / "requirements.lock"
  installed = subprocess.run(
    [
      python,
      *("-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
      *("--require-hashes", "-r", lock),
    ],
    capture_output=True,
    text=True,
    timeout=7200,  # against a hang alone: an index and a disk may be slow
    check=False,
  )
  if re.search(r"NewConnectionError|NameResolution", installed.stderr):
    pytest.skip("no package index can be reached")
  assert installed.returncode == 0, installed.stderr
  for command in (["pip", "check"], ["clap_jax.main", "--help"]):
    result = subprocess.run(
      [python, "-m", *command],
      cwd=conftest.REPOSITORY,
      capture_output=True,
      text=True,
      timeout=600,
      check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
