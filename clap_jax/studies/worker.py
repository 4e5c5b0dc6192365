"""Makes the pieces of one unit of a study, in a process of its own.

  python -m clap_jax.studies.worker WORKDIR UNIT.json

Exit codes: 0 all are made, or it was asked to stop; 3 some could not be made.
"""

import os
import pathlib
import signal
import sys
import threading
import time

from clap_jax.storage import untrusted
from clap_jax.studies import pieces, planning
from clap_jax.training import compilation

_PARENT_POLL_SEC = 2.0


def read_unit(path: pathlib.Path) -> list[planning.Piece]:
  """The pieces of a unit, as a study writes them."""
  document = untrusted.read_json(path)
  return [planning.Piece(**piece) for piece in document["pieces"]]


def _leave_with_parent() -> None:
  """Saves and leaves once the process that started this one is gone.

  It would make pieces that a new call of the study makes as well.
  """
  parent = os.getppid()

  def watch():
    while os.getppid() == parent:
      time.sleep(_PARENT_POLL_SEC)
    os.kill(os.getpid(), signal.SIGTERM)

  threading.Thread(target=watch, daemon=True).start()


def main(argv: list[str]) -> int:
  workdir, unit = map(pathlib.Path, argv)
  _leave_with_parent()
  compilation.keep_programs()
  failed = pieces.make_all(read_unit(unit), pieces.Shelf(workdir))
  for name in failed:
    print(f"failed: {name}", file=sys.stderr)
  return 3 if failed else 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
