"""Hosts of a slice: what gcloud is asked to run on them, run here."""

import os
import shutil
import subprocess
import time

from tests import conftest

SCRIPT = conftest.REPOSITORY / "launch.sh"
LAUNCHER = "clap_jax/launcher"
WORKER = conftest.REPOSITORY / LAUNCHER / "worker.sh"
ZONE = ("--zone", "us-central2-b")
PLACE = ["--zone", "us-central2-b"]
CREATE = (
  *("create", "--name", "run", *ZONE, "--type", "v5litepod-16"),
  *("--runtime", "v2-alpha-tpuv5-lite"),
)
EVERYWHERE = ["--node=all", "--worker=all", "--batch-size=64"]

# What a shell would take for more than a word.
HOSTILE = [
  "$(touch INJECTED)",
  "`touch INJECTED`",
  "; touch INJECTED;",
  "a b",
  "'\"",
  "x\ny",
  "&& touch INJECTED",
  "| touch INJECTED",
  "> INJECTED",
  "*",
  "~",
  "\\",
  "!!",
  "${HOME}",
  "é ü",
  "",
  "-rf",
  "#",
]


def tpu(group, *arguments):
  """The words of a call of gcloud."""
  return ["compute", "tpus", group, *arguments]


def command_of(call):
  """The command for the workers' shells in a call of `ssh`."""
  (word,) = (word for word in call if word.startswith("--command="))
  return word.removeprefix("--command=")


def commands(calls):
  """Those of all calls of `ssh`, in order."""
  return [command_of(call) for call in calls if call[3] == "ssh"]


def on_worker(home, command, *, clap="", exits=0, log="", environment=None):
  """Runs a command as a worker would, with a stand-in for launch.sh.

  Args:
    home: the worker's home folder.
    command: from `commands`.
    clap: what the stand-in runs; by default it notes its words.
    exits: its exit code.
    log: what it prints.
    environment: variables of the worker's shell.

  Returns:
    What the command printed.
  """
  folder = home / "clap_jax"
  (folder / LAUNCHER).mkdir(parents=True, exist_ok=True)
  shutil.copy(WORKER, folder / LAUNCHER)
  noted = "printf '%s\\0' \"$@\" > ~/words; env -0 > ~/environment"
  (folder / "launch.sh").write_text(
    f"#!/bin/sh\n{clap or noted}\necho '{log}'\nexit {exits}\n"
  )
  (folder / "launch.sh").chmod(0o755)
  inherited = dict(os.environ)
  inherited.pop("JAX_COMPILATION_CACHE_DIR", None)  # of these tests
  return subprocess.run(
    ["bash", "-c", command],
    cwd=home,
    env=inherited | {"HOME": str(home)} | (environment or {}),
    capture_output=True,
    text=True,
    check=True,
    timeout=300,
  ).stdout


def wait_for(condition, what):
  """Waits until `condition()` holds."""
  deadline = time.monotonic() + 300
  while not condition():
    assert time.monotonic() < deadline, what
    time.sleep(0.01)


def ended(home):
  """The exit code that is written down when the process on a worker ends."""
  code = home / "run.rc"
  wait_for(lambda: code.exists() and code.read_text(), "no exit code")
  return code.read_text()


def locks(calls):
  """The lock files that pip installed from, hashes and all, in order."""
  return [
    call.rpartition("/")[2]
    for call in calls
    if "--require-hashes" in call and call.endswith(".lock")
  ]
