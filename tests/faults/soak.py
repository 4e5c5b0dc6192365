"""A long run with a fault every so often, against the same run without.

`python -m tests.faults.soak --seconds 3600 --every 30`; prints its figures
beside their targets and exits with 0 if they are met. Faults, at random: the
process is killed, asked to stop, halted for a while, or its newest checkpoint
is damaged before it is killed.
"""

import argparse
import json
import math
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

import jax
import numpy as np
import orjson

from clap_jax.training import checkpoint, goodput, writer
from tests.faults import cluster
from tests.trainers import toy_features

KINDS = ("kill", "term", "halt", "damage")
LOG_FILE = "soak.log"
STRUCK_STARTS = 0.1  # of all
STEP_SEC = 0.05  # slept in every step, so that there is time for faults
SAVE_STEPS = 20


def parse():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--seconds", type=float, default=3600.0)
  parser.add_argument("--every", type=float, default=30.0)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--json")
  return parser.parse_args()


def damage(directory, generator):
  """Flips a bit of a file of the newest checkpoint, if there are two."""
  steps = checkpoint.complete_steps(directory)
  if len(steps) < 2:
    return
  files = [
    path
    for path in (directory / str(steps[-1])).rglob("*")
    if path.is_file() and path.stat().st_size
  ]
  path = generator.choice(sorted(files))
  content = bytearray(path.read_bytes())
  content[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
  path.write_bytes(content)


def strike(process, kind, workdir, generator):
  if kind == "halt":
    process.send_signal(signal.SIGSTOP)
    time.sleep(3.0)
    process.send_signal(signal.SIGCONT)
    return
  if kind == "term":
    process.terminate()
    return
  process.kill()
  process.wait()
  if kind == "damage":
    damage(workdir / checkpoint.CHECKPOINT_DIRECTORY, generator)


class Soaked(NamedTuple):
  faults: dict[str, int]  # by kind
  num_starts: int  # that came to train
  done: int  # steps, those done again included
  wall_sec: float


def last_step(workdir):
  """Of the record as a killed process left it; 0 without one."""
  path = workdir / writer.METRICS_FILE
  if not path.exists():
    return 0
  whole = path.read_bytes().rpartition(b"\n")[0]
  return orjson.loads(whole.rpartition(b"\n")[2])["step"] if whole else 0


def launch(command, log):
  with open(log, "ab") as file:
    return subprocess.Popen(
      [
        sys.executable,
        *("-m", "tests.faults.faulty_clap", f"every@1={STEP_SEC}"),
        *command,
      ],
      stdout=file,
      stderr=file,
    )


def first_step(log, offset):
  """That a start has announced in the log after `offset`, or None."""
  said = re.search(rb"steps (\d+) to", log.read_bytes()[offset:])
  return int(said[1]) if said else None


def train_under_faults(command, workdir, options) -> Soaked:
  """Until the time is over and the run has stopped as it was asked to."""
  generator, log = random.Random(options.seed), workdir.parent / LOG_FILE
  log.touch()
  counts, num_starts, done = dict.fromkeys(KINDS, 0), 0, 0
  began_sec = time.monotonic()
  stopping = False
  while not stopping:
    offset, first = log.stat().st_size, None
    process = launch(command, log)
    strike_sec = math.inf
    if generator.random() < STRUCK_STARTS:
      strike_sec = time.monotonic() + generator.uniform(0, options.every / 2)
    while process.poll() is None and not stopping:
      time.sleep(0.1)
      now_sec = time.monotonic()
      if first is None:
        first = first_step(log, offset)
        if first is not None:
          strike_sec = min(strike_sec, now_sec + options.every)
      if first is not None and now_sec > began_sec + options.seconds:
        process.terminate()
        stopping = True
      elif now_sec >= strike_sec:
        kind = generator.choice(KINDS)
        counts[kind] += 1
        strike(process, kind, workdir, generator)
        strike_sec = time.monotonic() + options.every
    code = process.wait()
    first = first_step(log, offset)
    if first is not None:
      num_starts += 1
      done += max(last_step(workdir) - first + 1, 0)
    # One asked to stop before it has begun to train has nothing to save.
    unharmed = (0,) if stopping else (0, -signal.SIGKILL, -signal.SIGTERM)
    if code not in unharmed:
      raise SystemExit(f"{log.read_text()[-4000:]}\nexit code {code}")
  return Soaked(counts, num_starts, done, time.monotonic() - began_sec)


def compare(runs, commands, *, timeout_sec):
  """Trains the clean run to the step of the other one; figures of both."""
  steps = {"soaked": last_step(runs["soaked"])}
  started = cluster.start(
    commands["clean"], num_devices=1, faults=f"term@{steps['soaked']}"
  )
  cluster.finish(started, timeout_sec=timeout_sec).check()
  steps["clean"] = last_step(runs["clean"])
  losses = {name: cluster.losses(path) for name, path in runs.items()}
  params = {
    name: checkpoint.restore_params(path)[0] for name, path in runs.items()
  }
  equal = all(
    np.array_equal(a, b)
    for a, b in zip(*map(jax.tree.leaves, params.values()), strict=True)
  )
  return {
    "steps": steps["soaked"],
    "final_loss": losses["soaked"][steps["soaked"]],
    "clean_loss": losses["clean"][steps["clean"]],
    "losses_of_all_steps_equal": losses["soaked"] == losses["clean"],
    "parameters_bit_equal": equal,
  }


def main():
  options = parse()
  os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0"
  num_steps = math.ceil(options.seconds / STEP_SEC)  # more than can be done
  with tempfile.TemporaryDirectory() as folder:
    root = pathlib.Path(folder)
    (root / "toy").mkdir()
    toy_features.write(root / "toy")
    changes = {
      "loop.steps": num_steps,
      "loop.log_every_steps": 1,
      "checkpoint.save_every_percent": 100 * SAVE_STEPS / num_steps,
    }
    runs = {name: root / name for name in ("clean", "soaked")}
    commands = {
      name: cluster.arguments(root / "toy", path, **changes)
      for name, path in runs.items()
    }
    soaked = train_under_faults(commands["soaked"], runs["soaked"], options)
    compared = compare(
      runs, commands, timeout_sec=max(cluster.TIMEOUT_SEC, 2 * options.seconds)
    )
    ledger = orjson.loads((runs["soaked"] / goodput.GOODPUT_FILE).read_bytes())
  kept = compared["steps"] / max(soaked.done, 1)
  figures = compared | {
    "wall_sec": round(soaked.wall_sec, 1),
    "faults": soaked.faults,
    "starts": soaked.num_starts,
    "steps_done": soaked.done,
    "work_kept_over_done": round(kept, 4),
    "kept_step_time_over_wall": round(ledger["goodput"], 4),
    "load_average": os.getloadavg()[2],
  }
  print(json.dumps(figures, indent=1))
  print("targets: work_kept_over_done >= 0.9, final_loss == clean_loss")
  if options.json:
    pathlib.Path(options.json).write_text(json.dumps(figures))
  same = compared["losses_of_all_steps_equal"]
  return 0 if kept >= 0.9 and same and compared["parameters_bit_equal"] else 1


if __name__ == "__main__":
  sys.exit(main())
