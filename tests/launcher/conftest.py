"""A stand-in for gcloud that records its arguments."""

import os
import subprocess

import pytest

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
