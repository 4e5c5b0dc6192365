"""The lock files: complete, hashed, and in step with what they are made of."""

import importlib.metadata
import pathlib
import platform
import re
import subprocess
import sys
import venv

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests import conftest, launch_inputs

ROOT = conftest.REPOSITORY
LOCKS = (
  "requirements.lock",
  "requirements-build.lock",
  "requirements-tpu.lock",
  "requirements-cuda.lock",
  "requirements-gcs.lock",
  "requirements-s3.lock",
  "requirements-uv.lock",
)
PYTHONS = ("3.11", "3.12", "3.13")
MACHINES = ("x86_64", "aarch64")
_PIN = re.compile(r"([A-Za-z0-9._-]+)==([^\s;\\]+)(?:\s*;\s*([^\\\n]*))?")


def blocks(name):
  """A lock file's entries, each with its hashes."""
  text = (ROOT / name).read_text(encoding="utf-8")
  lines = [line for line in text.splitlines() if not line.startswith("#")]
  return re.split(r"\n(?=\S)", "\n".join(lines).strip())


def pins(lines, python, machine="x86_64"):
  """Package to version, of the lines that hold on a Python and a machine."""
  where = {
    "python_version": python,
    "python_full_version": f"{python}.1",
    "platform_machine": machine,
    "sys_platform": "linux",
    "platform_system": "Linux",
    "os_name": "posix",
    "implementation_name": "cpython",
    "platform_python_implementation": "CPython",
  }
  found = {}
  for line in lines:
    if match := _PIN.match(line):
      name, version, marker = match.groups()
      if not marker or Marker(marker.strip()).evaluate(where):
        found[canonicalize_name(name)] = version
  return found


def requirements():
  text = (ROOT / "requirements.txt").read_text(encoding="utf-8")
  lines = (line.partition("#")[0].strip() for line in text.splitlines())
  return [Requirement(line) for line in lines if line]


def constraints(python):
  text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
  return pins(text.splitlines(), python)


@pytest.mark.parametrize("name", LOCKS)
def test_every_package_has_a_hash_and_no_address(name):
  assert blocks(name)
  for block in blocks(name):
    assert _PIN.match(block), block
    assert re.search(r"--hash=sha256:[0-9a-f]{64}", block), block
    assert "://" not in block


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("python", PYTHONS)
def test_every_requirement_is_locked_at_the_tested_version(python, machine):
  locked = pins(blocks("requirements.lock"), python, machine)
  assert len(locked) > 80
  tested = constraints(python)
  for requirement in requirements():
    name = canonicalize_name(requirement.name)
    assert name in locked, f"{name}: run .ci/lock"
    assert name in tested, f"{name}: pin it in constraints.txt"
    assert requirement.specifier.contains(tested[name]), name
  for name, version in tested.items():
    assert locked.get(name, version) == version, f"{name}: run .ci/lock"


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize(
  ("name", "package"),
  [
    ("requirements-build.lock", "setuptools"),
    ("requirements-tpu.lock", "libtpu"),
    ("requirements-uv.lock", "uv"),
  ],
)
def test_groups_are_locked_at_the_tested_version(name, package, python):
  assert pins(blocks(name), python) == {package: constraints(python)[package]}


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("python", PYTHONS)
def test_the_plugin_for_cuda_is_that_of_the_locked_jax(python, machine):
  added = pins(blocks("requirements-cuda.lock"), python, machine)
  locked = pins(blocks("requirements.lock"), python, machine)
  assert added["jax-cuda13-plugin"] == locked["jax"]
  assert added["jax-cuda13-pjrt"] == locked["jax"]
  assert "nvidia-cudnn-cu13" in added
  # It adds packages and changes none.
  assert not set(added) & set(locked)


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize(
  ("name", "package"),
  [("requirements-gcs.lock", "gcsfs"), ("requirements-s3.lock", "s3fs")],
)
def test_what_buckets_need_changes_no_locked_version(name, package, python):
  added = pins(blocks(name), python)
  assert added[package] == constraints(python)[package]
  locked = pins(blocks("requirements.lock"), python)
  for shared in set(added) & set(locked):
    assert added[shared] == locked[shared], shared


def installed(python=sys.executable):
  """Package to version, of an environment."""
  program = (
    "import importlib.metadata as m\n"
    "for d in m.distributions(): print(d.metadata['Name'], d.version)"
  )
  done = subprocess.run(
    [python, "-c", program], check=True, capture_output=True, text=True
  )
  lines = map(str.split, done.stdout.splitlines())
  return {canonicalize_name(name): version for name, version in lines}


def needed():
  """Every package that the requirements bring into this environment."""
  waiting, found = requirements(), set()
  while waiting:
    requirement = waiting.pop()
    name = canonicalize_name(requirement.name)
    extras = requirement.extras or {""}
    if (name, frozenset(extras)) in found:
      continue
    found.add((name, frozenset(extras)))
    for line in importlib.metadata.requires(name) or ():
      child = Requirement(line)
      if not child.marker or any(
        child.marker.evaluate({"extra": extra}) for extra in extras
      ):
        waiting.append(child)
  return {name for name, _ in found}


def locked_here():
  here = ".".join(map(str, sys.version_info[:2]))
  entries = [*blocks("requirements.lock"), *blocks("requirements-build.lock")]
  return pins(entries, here, platform.machine())


def test_this_environment_is_the_locked_one():
  """Of one that launch.sh made from these very files."""
  made_from = pathlib.Path(sys.prefix, ".ready")
  if not made_from.is_file() or made_from.read_bytes() != launch_inputs.stamp():
    pytest.skip("launch.sh did not make this environment from these files")
  locked, present = locked_here(), installed()
  for name in needed() | {"setuptools"}:
    assert present[name] == locked[name], name


@pytest.mark.slow
def test_the_lock_installs_and_the_package_runs_from_it(tmp_path):
  """Into an environment of its own, every file checked by its hash."""
  if f"{sys.version_info[0]}.{sys.version_info[1]}" not in PYTHONS:
    pytest.skip(f"the lock is for Python {', '.join(PYTHONS)}")
  venv.create(tmp_path / "env", with_pip=True)
  python = tmp_path / "env" / "bin" / "python"
  for name in ("requirements-build.lock", "requirements.lock"):
    done = subprocess.run(
      [
        python,
        *("-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
        *("--no-build-isolation", "--require-hashes", "-r", ROOT / name),
      ],
      capture_output=True,
      text=True,
      timeout=7200,  # against a hang alone: an index and a disk may be slow
      check=False,
    )
    if re.search(r"NewConnectionError|NameResolution", done.stderr):
      pytest.skip("no package index can be reached")
    assert done.returncode == 0, done.stderr
  assert installed(python).items() - {("pip", installed(python)["pip"])} == set(
    locked_here().items()
  )
  for command in (["pip", "check"], ["clap_jax.main", "--help"]):
    result = subprocess.run(
      [python, "-m", *command],
      cwd=ROOT,
      capture_output=True,
      text=True,
      timeout=600,
      check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
