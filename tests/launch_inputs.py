"""What launch.sh makes an environment from, and the stamp that it leaves."""

import pathlib
import re
import subprocess

from tests import conftest

_SCRIPT = (conftest.REPOSITORY / "launch.sh").read_text(encoding="utf-8")
NAMES = re.search(r"^inputs=\((.*?)\)", _SCRIPT, re.M | re.S)[1].split()


def stamp(folder: pathlib.Path = conftest.REPOSITORY) -> bytes:
  """Returns the stamp of a .venv made from the files in `folder`."""
  content = b"".join((folder / name).read_bytes() for name in NAMES)
  done = subprocess.run(
    ["cksum"], input=content, check=True, capture_output=True
  )
  return done.stdout.strip()
