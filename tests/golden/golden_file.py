"""Texts that are kept beside the tests and compared line by line."""

import difflib
import os
import pathlib

VARIABLE = "CLAP_JAX_UPDATE_GOLDEN"
COMMAND = f"{VARIABLE}=1 ./launch.sh test tests/golden"


def check(path: pathlib.Path, text: str) -> None:
  """Compares `text` with the file, or writes it where the variable is set.

  Raises:
    AssertionError: they differ; the message has the difference and the command
      that takes the new text over.
  """
  if os.environ.get(VARIABLE):
    path.write_text(text, encoding="utf-8")
    return
  kept = path.read_text(encoding="utf-8") if path.is_file() else ""
  difference = difflib.unified_diff(
    kept.splitlines(),
    text.splitlines(),
    fromfile=path.name,
    tofile="now",
    lineterm="",
    n=1,
  )
  assert kept == text, (
    f"{path.name} is out of date. If the change is meant, run\n  {COMMAND}\n"
    "and review the difference:\n" + "\n".join(difference)
  )
