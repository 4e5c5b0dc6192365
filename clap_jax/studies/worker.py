"""Makes the artifacts of one job in its own process.

  python -m clap_jax.studies.worker WORKDIR JOB.json

Exit codes: 0 all are made, or the process was asked to stop; 3 some failed.
"""

import os
import pathlib
import signal
import sys
import threading
import time

from clap_jax.storage import untrusted
from clap_jax.studies import artifacts
from clap_jax.training import compilation

_PARENT_POLL_SEC = 2.0


def read_job(path: pathlib.Path) -> artifacts.Job:
  """Reads a job that `jobs.Processes` wrote."""
  document = untrusted.read_json(path)
  made = tuple(artifacts.Artifact(**item) for item in document["artifacts"])
  return artifacts.Job(document["label"], made)


def _leave_with_parent() -> None:
  """Saves and exits when the parent process ends.

  Otherwise it would make the same artifacts as a new call.
  """
  parent = os.getppid()

  def watch():
    while os.getppid() == parent:
      time.sleep(_PARENT_POLL_SEC)
    os.kill(os.getpid(), signal.SIGTERM)

  threading.Thread(target=watch, daemon=True).start()


def main(argv: list[str]) -> int:
  workdir, job = map(pathlib.Path, argv)
  _leave_with_parent()
  compilation.keep_programs()
  store = artifacts.ArtifactStore(workdir)
  failed = artifacts.make_all(read_job(job).artifacts, store)
  for name in failed:
    print(f"failed: {name}", file=sys.stderr)
  return 3 if failed else 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
