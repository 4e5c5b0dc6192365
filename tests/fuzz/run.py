"""Runs fuzz targets in this process, within limits of memory and time.

  python -m tests.fuzz.run --seconds 3600 --seed 1 --out findings [TARGET ...]

The input that is being read is kept in OUT/current, so that it is there after a
crash of the process; each finding is a folder with its input.
"""

import argparse
import json
import pathlib
import random
import resource
import shutil
import signal
import sys
import time
import traceback

from tests.fuzz import targets

MAX_SEC, MAX_BYTES = 10, 1 << 30


class TooSlowError(BaseException):
  """One input takes longer than any may."""


def _too_slow(*_):
  raise TooSlowError


def limit_memory() -> None:
  """Allows this process as much memory as it has, and MAX_BYTES more."""
  text = pathlib.Path("/proc/self/statm").read_text()
  used = int(text.split()[0]) * resource.getpagesize()
  hard = resource.getrlimit(resource.RLIMIT_AS)[1]
  resource.setrlimit(resource.RLIMIT_AS, (used + MAX_BYTES, hard))


def run(name: str, *, seconds: float, seed: int, out: pathlib.Path) -> dict:
  """Runs a target until its time is over; returns counts and findings."""
  count = num_accepted = 0
  findings: dict[str, str] = {}
  end = time.monotonic() + seconds
  current = out / "current"
  while time.monotonic() < end:
    shutil.rmtree(current, ignore_errors=True)
    current.mkdir(parents=True)
    rng = random.Random(f"{name} {seed} {count}")
    signal.setitimer(signal.ITIMER_REAL, MAX_SEC)
    try:
      targets.TARGETS[name](rng, current)
      num_accepted += 1
    except (ValueError, FileNotFoundError):
      pass  # what every reader documents
    except BaseException as error:
      where = traceback.extract_tb(error.__traceback__)[-1]
      key = f"{type(error).__name__} at {where.filename}:{where.lineno}"
      if key not in findings:
        kept = out / f"{name}-{seed}-{count}"
        shutil.copytree(current, kept, dirs_exist_ok=True)
        findings[key] = f"{kept}: {error}"[:400]
      if isinstance(error, KeyboardInterrupt):
        raise
    finally:
      signal.setitimer(signal.ITIMER_REAL, 0)
    count += 1
  return {
    "target": name,
    "executions": count,
    "accepted": num_accepted,
    "findings": findings,
  }


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("targets", nargs="*", default=list(targets.TARGETS))
  parser.add_argument("--seconds", type=float, default=20.0, help="in all")
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--out", type=pathlib.Path, required=True)
  args = parser.parse_args()
  signal.signal(signal.SIGALRM, _too_slow)
  limit_memory()
  found = False
  for name in args.targets or targets.TARGETS:
    (args.out / "target").parent.mkdir(parents=True, exist_ok=True)
    (args.out / "target").write_text(name)
    seconds = args.seconds / len(args.targets)
    done = run(name, seconds=seconds, seed=args.seed, out=args.out)
    print(json.dumps(done), flush=True)
    found = found or bool(done["findings"])
  return int(found)


if __name__ == "__main__":
  sys.exit(main())
