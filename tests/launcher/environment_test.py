"""The environment that launch.sh makes, on images that lack a fitting Python.

The interpreters, pip and uv are stand-ins that note their arguments.
"""

import os
import shutil
import subprocess

import pytest

from tests import conftest, launch_inputs

# As python3 of an image; as the one that uv brings; as .venv/bin/python.
PYTHON = r"""#!/usr/bin/env bash
printf '%s\n' "$(basename "$0") $*" >> "$RECORD"
case "$1 $2 $3" in
  "-c import ensurepip"*) [[ "$0" != */image/* || -f "$FITS" ]] ;;
  "-c import platform"*) cat "$PLATFORM" ;;
  "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  "-m pip install")
    [[ "$0" == */.venv/* || ! -f "$NO_PIP" ]] || exit 1
    while [[ $# -gt 1 && "$1" != --target ]]; do shift; done
    if [[ "$1" == --target ]]; then mkdir "$2/bin" && cp "$UV" "$2/bin"; fi ;;
esac
"""
UV = r"""#!/usr/bin/env bash
printf '%s\n' "uv $*" >> "$RECORD"
case "$1 $2" in
  "python install") [[ ! -f "$NO_DOWNLOAD" ]] ;;
  "python find") printf '%s\n' "$BROUGHT" ;;
esac
"""


@pytest.fixture
def image(tmp_path):
  """(install, calls, folder): a machine with a python3 of its own."""
  folder = tmp_path / "clap_jax"
  folder.mkdir()
  names = ("launch.sh", "requirements-uv.lock", *launch_inputs.NAMES)
  for name in names:
    shutil.copy(conftest.REPOSITORY / name, folder)
  programs = {"image/python3": PYTHON, "uv/python3.11": PYTHON, "uv/uv": UV}
  for name, text in programs.items():
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text)
    (tmp_path / name).chmod(0o755)
  (tmp_path / "platform").write_text("3.11 Linux x86_64\n")
  (tmp_path / "record").touch()
  environment = {
    "PATH": f"{tmp_path}/image{os.pathsep}{os.environ['PATH']}",
    "HOME": str(tmp_path),
    "RECORD": str(tmp_path / "record"),
    "PLATFORM": str(tmp_path / "platform"),
    "UV": str(tmp_path / "uv/uv"),
    "BROUGHT": str(tmp_path / "uv/python3.11"),
    "FITS": str(tmp_path / "fits"),
    "NO_PIP": str(tmp_path / "no_pip"),
    "NO_DOWNLOAD": str(tmp_path / "no_download"),
  }

  def install(*arguments, **more):
    return subprocess.run(
      ["bash", str(folder / "launch.sh"), "install", *arguments],
      capture_output=True,
      text=True,
      timeout=300,
      check=False,
      env=environment | more,
      stdin=subprocess.DEVNULL,
    )

  def calls():
    return (tmp_path / "record").read_text().splitlines()

  return install, calls, folder


def locks(calls):
  """The lock files that pip installed from, hashes and all, in order."""
  return [
    call.rpartition("/")[2]
    for call in calls
    if "--require-hashes" in call and call.endswith(".lock")
  ]


def test_an_old_python_without_venv_gets_another(image):
  install, calls, folder = image
  result = install("tpu")
  assert result.returncode == 0, result.stderr
  assert "uv brings another" in result.stderr
  assert locks(calls()) == [
    "requirements-uv.lock",
    "requirements-build.lock",
    "requirements.lock",
    "requirements-tpu.lock",
  ]
  (brought,) = (
    call for call in calls() if call.startswith("uv python install")
  )
  assert brought.endswith(" 3.11")
  (made,) = (call for call in calls() if " -m venv " in call)
  assert made == f"python3.11 -m venv {folder}/.venv"
  before = len(calls())
  assert install().returncode == 0  # all is there
  assert len(calls()) == before


def test_a_fitting_python_is_taken(image, tmp_path):
  install, calls, folder = image
  (tmp_path / "fits").touch()
  assert install().returncode == 0
  assert f"python3 -m venv {folder}/.venv" in calls()
  assert "requirements-uv.lock" not in locks(calls())


@pytest.mark.parametrize("missing", ["no_pip", "no_download"])
def test_without_another_python_it_exits_2(image, tmp_path, missing):
  install, _, folder = image
  (tmp_path / missing).touch()
  result = install()
  assert result.returncode == 2
  assert "Python 3.11 or newer" in result.stderr
  assert "PYTHON=" in result.stderr
  assert not (folder / ".venv").exists()


def test_an_interpreter_that_is_named_is_not_replaced(image, tmp_path):
  install, calls, folder = image
  named = str(tmp_path / "image/python3")
  result = install(PYTHON=named)
  assert result.returncode == 2
  assert f"PYTHON={named}" in result.stderr
  assert not [call for call in calls() if call.startswith("uv")]
  assert not (folder / ".venv").exists()


@pytest.mark.parametrize(
  ("arguments", "lock", "extra"),
  [
    ((), None, None),
    (("cpu",), None, None),
    (("cuda",), "requirements-cuda.lock", "jax[cuda13]"),
    (("tpu",), "requirements-tpu.lock", "jax[tpu]"),
  ],
)
def test_each_hardware(image, tmp_path, arguments, lock, extra):
  install, calls, _ = image
  (tmp_path / "fits").touch()
  result = install(*arguments)
  assert result.returncode == 0, result.stderr
  assert locks(calls())[2:] == ([lock] if lock else [])
  # A machine that no lock was made for.
  (tmp_path / "platform").write_text("3.14 Darwin arm64\n")
  shutil.rmtree(image[2] / ".venv")
  before = len(calls())
  result = install(*arguments)
  assert result.returncode == 0, result.stderr
  assert "installing without hashes" in result.stderr
  later = calls()[before:]
  assert not locks(later)
  assert sum(f" {extra} -c " in call for call in later) == (extra is not None)


def test_new_versions_of_jax_bring_new_ones_of_its_plugin(image, tmp_path):
  install, calls, folder = image
  (tmp_path / "fits").touch()
  assert install("cuda").returncode == 0
  before = len(calls())
  (folder / "constraints.txt").write_text("jax==0.10.3\n")
  assert install().returncode == 0
  assert locks(calls()[before:])[-1] == "requirements-cuda.lock"


def test_other_hardware_is_refused_before_anything_is_made(image):
  install, calls, folder = image
  result = install("rocm")
  assert result.returncode == 2
  assert "'rocm'" in result.stderr
  assert "cpu, cuda or tpu" in result.stderr
  assert calls() == []
  assert not (folder / ".venv").exists()
