"""Every command of the documents, run in the order in which they give them.

One folder per section stands for the reader's clone: what a block needs from
earlier sections is made by their own commands. See document_tables.py for what
is made smaller and what is not run.
"""

import importlib
import os
import pathlib
import re
import shutil
import subprocess

import pytest

from clap_jax import main
from clap_jax.training import topology
from tests import documents, launch_inputs
from tests.end_to_end import document_tables as tables

COMMANDS = list(documents.read_commands())
_CLONED = ("launch.sh", "requirements-uv.lock", *launch_inputs.NAMES)
_LAUNCHER = "clap_jax/launcher"  # what launch.sh reads and ships
# Takes the place of .venv/bin/python: says what it would have run.
_PYTHON = """#!/bin/sh
printf '%s\\n' "$@" > "$(dirname "$0")/../started"
"""
_CLOUD = """#!/bin/sh
printf '%s\\n' "$*" >> called
"""


def reason_not_to_run(command: documents.Command) -> str | None:
  for start, reason in tables.NOT_RUN.items():
    if starts(command.text, start):
      return reason
  return None


def starts(text: str, start: str) -> bool:
  return f"{text} ".startswith(f"{start} ")


def smaller(place: str, words: tuple[str, ...]) -> list[str]:
  """The words of a section's command as they are run here."""
  patterns = tables.SECTIONS[place].smaller | tables.SMALLER
  extra = [
    word
    for start, more in tables.EXTRA.items()
    if starts(" ".join(words), start)
    for word in more
  ]
  parts = [part for word in words for part in _smaller_word(word, patterns)]
  return parts + extra


def _smaller_word(word: str, patterns: dict[str, str]) -> list[str]:
  small = word
  for pattern, replacement in patterns.items():
    small = re.sub(pattern, replacement, small)
  return [word] if small == word else small.split()


class Clone:
  """A folder like a fresh clone, in which commands are typed."""

  def __init__(self, folder: pathlib.Path):
    self.folder = folder
    (folder / "configs").symlink_to(documents.ROOT / "configs")
    for name in _CLONED:
      shutil.copy(documents.ROOT / name, folder)
    shutil.copytree(documents.ROOT / _LAUNCHER, folder / _LAUNCHER)
    self._write_program(".venv/bin/python", _PYTHON)
    self._write_program("bin/gcloud", _CLOUD)
    (folder / ".venv/.ready").write_bytes(launch_inputs.stamp(folder))

  def _write_program(self, name: str, text: str) -> None:
    path = self.folder / name
    path.parent.mkdir(parents=True)
    path.write_text(text)
    path.chmod(0o755)

  def type(self, command: documents.Command) -> None:
    """Runs one command; fails unless it ends well."""
    program, *arguments = command.words
    if command.text.startswith("python -m tests.tutorials."):
      importlib.import_module(arguments[1]).main(arguments[2:])
      return
    if program == "./launch.sh":
      arguments = self._launch(arguments)
    else:
      assert program == "clap", f"nobody knows how to run {command.text}"
    if not arguments:
      return
    words = smaller(command.place, ("clap", *arguments))
    print(">", *words)
    assert main.main(words[1:]) == 0, words

  def _launch(self, arguments: list[str]) -> list[str]:
    """Runs launch.sh itself; returns what it would have started of `clap`."""
    path = f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
      ["bash", str(self.folder / "launch.sh"), *arguments],
      cwd=self.folder,
      env=os.environ | {"PATH": path},
      capture_output=True,
      text=True,
      check=False,
      timeout=600,
      stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    if arguments[0] == "tpu":
      assert (self.folder / "called").read_text()
      return []
    module, *started = (
      (self.folder / ".venv/started").read_text().splitlines()[1:]
    )
    assert module == "clap_jax.main"
    return started


def type_section(clone: Clone, place: str, request, given=None) -> None:
  """What the reader brings, and then the section's commands in order.

  Without the TPU compiler all others are run, and then the test is skipped.

  Args:
    clone: where they are typed.
    place: the section.
    request: pytest's.
    given: writes what the reader brings; None takes the section's own.
  """
  section = tables.SECTIONS[place]
  for earlier in section.after:
    type_section(clone, earlier, request)
  for write in section.given if given is None else given:
    write(clone.folder, request)
  left_out = []
  for command in COMMANDS:
    if command.place != place or reason_not_to_run(command):
      continue
    if starts(command.text, "clap compile") and not topology.library_path():
      left_out.append(command.text)
    else:
      clone.type(command)
  if left_out:
    pytest.skip(
      f"no TPU compiler (pip install -e .[tpu-compile]) for {left_out}"
    )


@pytest.mark.slow
@pytest.mark.parametrize("place", tables.REAL)
def test_section_on_real_data(place, tmp_path, monkeypatch, request):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv("PYTHONPATH", str(documents.ROOT))
  type_section(Clone(tmp_path), place, request, given=tables.REAL[place])


@pytest.mark.parametrize(
  "place",
  [
    pytest.param(place, marks=[] if section.fast else pytest.mark.slow)
    for place, section in tables.SECTIONS.items()
  ],
)
def test_section(place, tmp_path, monkeypatch, request):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv("PYTHONPATH", str(documents.ROOT))  # of its processes
  type_section(Clone(tmp_path), place, request)


def test_every_command_is_run_or_has_a_reason():
  for command in COMMANDS:
    assert command.place in tables.SECTIONS or reason_not_to_run(command), (
      f"{command.place}: `{command.text}` is neither run nor in NOT_RUN of "
      "tests/end_to_end/document_tables.py"
    )


def test_no_table_names_what_no_document_has():
  places = {command.place for command in COMMANDS}
  assert set(tables.SECTIONS) <= places
  texts = [command.text for command in COMMANDS]
  for start in tables.NOT_RUN:
    assert any(starts(text, start) for text in texts), start
  run = [c for c in COMMANDS if reason_not_to_run(c) is None]
  words = {(command.place, word) for command in run for word in command.words}
  for pattern in tables.SMALLER:
    assert any(re.search(pattern, word) for _, word in words), pattern
  for place, section in tables.SECTIONS.items():
    for pattern in section.smaller:
      assert any(re.search(pattern, w) for p, w in words if p == place), pattern
