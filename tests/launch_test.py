"""The launcher's usage; its installation is tested by using it."""

import os
import shutil
import subprocess

import pytest

from tests import conftest, launch_inputs

SCRIPT = conftest.REPOSITORY / "launch.sh"
SCRIPTS = (
  SCRIPT,
  conftest.REPOSITORY / "clap_jax/launcher/tpu.sh",
  conftest.REPOSITORY / "clap_jax/launcher/worker.sh",
)


def launch(*arguments, environment=None, script=SCRIPT):
  return subprocess.run(
    ["bash", str(script), *arguments],
    capture_output=True,
    text=True,
    timeout=300,
    check=False,
    env=os.environ | (environment or {}),
    stdin=subprocess.DEVNULL,
  )


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_it_parses(script):
  # tpu.sh is sourced.
  assert os.access(script, os.X_OK) == (script.name != "tpu.sh")
  result = subprocess.run(
    ["bash", "-n", str(script)], capture_output=True, check=False
  )
  assert result.returncode == 0, result.stderr


def test_shellcheck():
  program = conftest.developer_tool("shellcheck")
  result = subprocess.run(
    [program, "--external-sources", *map(str, SCRIPTS)],
    cwd=conftest.REPOSITORY,
    capture_output=True,
    text=True,
    check=False,
  )
  assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("flag", ["--help", "-h", "help"])
def test_help(flag):
  result = launch(flag)
  assert result.returncode == 0
  for word in ("demo", "test", "clap", "cuda", "--env", "PYTHON"):
    assert word in result.stdout
  assert "set -euo" not in result.stdout  # the comment and nothing after it
  assert not result.stderr


@pytest.mark.parametrize("arguments", [(), ("tset",), ("",), ("--halp",)])
def test_a_wrong_command_exits_2_with_the_usage(arguments):
  result = launch(*arguments)
  assert result.returncode == 2
  assert not result.stdout
  assert "./launch.sh demo" in result.stderr
  if arguments:
    assert f"'{arguments[0]}'" in result.stderr


def test_an_old_python_exits_2(tmp_path):
  for name in ("launch.sh", *launch_inputs.NAMES):
    shutil.copy(conftest.REPOSITORY / name, tmp_path)
  for python in ("false", "there-is-no-such-python"):
    result = launch(
      "test",
      environment={"PYTHON": python},
      script=tmp_path / "launch.sh",
    )
    assert result.returncode == 2
    assert "Python 3.11 or newer" in result.stderr
  assert not (tmp_path / ".venv").exists()
