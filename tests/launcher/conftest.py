"""Stand-ins: gcloud, and the interpreters of a machine's image."""

import os
import pathlib
import shutil
import subprocess
from collections.abc import Callable
from typing import NamedTuple

import pytest

from tests import conftest, launch_inputs
from tests.launcher import hosts

RECORDER = r"""#!/usr/bin/env bash
{ flock 9; printf '%s\0' "$@" >&9; printf '\36' >&9; } 9>> "$RECORD"
# A line of FAIL, of a node's name and a code, is how calls for that node end.
code="$(sed -n "s/^$5 //p" "$FAIL" 2> /dev/null)"
[[ -z "$code" ]] || exit "$code"
case "$*" in
  *describe*)
    state="$(head -n 1 "$STATES")"
    sed -i 1d "$STATES"
    printf '%s\n' "${state%% *}" ;;
  # Answers in turn, the last one for good; a comma stands between workers.
  *"worker.sh state"*)
    head -n 1 "$SAID" | tr , '\n'
    if [[ "$(wc -l < "$SAID")" -gt 1 ]]; then sed -i 1d "$SAID"; fi ;;
  *"worker.sh start"*)
    if [[ -f "$ON_START" ]]; then bash "$ON_START"; rm "$ON_START"; fi ;;
  *" scp "*) cp -- "$5" "$SHIPPED" ;;
esac
"""


# As python3 of an image; as the one that uv brings; as .venv/bin/python.
INTERPRETER = r"""#!/usr/bin/env bash
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
def cloud(tmp_path):
  """(launch, calls): runs the script; what gcloud was called with."""
  folder = tmp_path / "bin"
  folder.mkdir()
  (folder / "gcloud").write_text(RECORDER)
  (folder / "gcloud").chmod(0o755)
  record = tmp_path / "record"
  environment = os.environ | {
    "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
    "RECORD": str(record),
    "STATES": str(tmp_path / "states"),
    "SAID": str(tmp_path / "said"),
    "ON_START": str(tmp_path / "on_start"),
    "SHIPPED": str(tmp_path / "shipped"),
    "FAIL": str(tmp_path / "fail"),
    "CLAP_POLL_SEC": "0",
    "SECRET_TOKEN": "hunter2",
    "XDG_CONFIG_HOME": str(tmp_path / "config"),
  }
  (tmp_path / "home").mkdir()

  def launch(*arguments, timeout=300, script=hosts.SCRIPT):
    return subprocess.run(
      ["bash", str(script), "tpu", *arguments],
      capture_output=True,
      text=True,
      timeout=timeout,
      check=False,
      env=environment,
      cwd=tmp_path / "home",
      stdin=subprocess.DEVNULL,
    )

  def calls():
    if not record.exists():
      return []
    text = record.read_bytes().decode()
    return [call.split("\0")[:-1] for call in text.split("\36")[:-1]]

  return launch, calls


class Image(NamedTuple):
  """A machine, and what was run on it."""

  install: Callable  # runs ./launch.sh install there
  calls: Callable  # what the interpreters and uv were given
  folder: pathlib.Path  # of the checkout
  environment: dict[str, str]


@pytest.fixture
def image(tmp_path):
  """A machine with a python3 of its own."""
  folder = tmp_path / "clap_jax"
  folder.mkdir()
  names = ("launch.sh", "requirements-uv.lock", *launch_inputs.NAMES)
  for name in names:
    shutil.copy(conftest.REPOSITORY / name, folder)
  programs = {
    "image/python3": INTERPRETER,
    "uv/python3.11": INTERPRETER,
    "uv/uv": UV,
  }
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

  return Image(install, calls, folder, environment)
