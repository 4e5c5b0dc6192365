"""A long run with a fault every so often, against the same run without.

`python -m tests.faults.soak --seconds 3600 --every 30`; prints its figures
beside their targets and exits with 0 if they are met. Faults, at random: the
process is killed, asked to stop, halted for a while, or its newest checkpoint
is damaged before it is killed.
"""

import argparse
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np
import orjson

from clap_jax.training import checkpoint, goodput
from tests.faults import cluster
from tests.trainers import toy_features

KINDS = ("kill", "term", "halt", "damage")
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


def trained_under_faults(command, workdir, options):
  """Runs to the end whatever happens; counts the faults by kind."""
  generator = random.Random(options.seed)
  counts = dict.fromkeys(KINDS, 0)
  deadline = time.monotonic() + 4 * options.seconds + 600
  while not (workdir / "results.json").exists():
    assert time.monotonic() < deadline, "the run does not come to its end"
    with open(workdir.parent / "soak.log", "ab") as log:
      process = subprocess.Popen(
        [
          sys.executable,
          "-m",
          "tests.faults.faulty_clap",
          f"every@1={STEP_SEC}",
          *command,
        ],
        stdout=log,
        stderr=log,
      )
      while process.poll() is None:
        try:
          process.wait(timeout=options.every)
        except subprocess.TimeoutExpired:
          kind = generator.choice(KINDS)
          counts[kind] += 1
          strike(process, kind, workdir, generator)
    if process.returncode not in (0, -signal.SIGKILL):
      raise SystemExit((workdir.parent / "soak.log").read_text()[-4000:])
  return counts


def main():
  options = parse()
  os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0"
  num_steps = max(int(options.seconds / STEP_SEC / 2), 50)
  with tempfile.TemporaryDirectory() as folder:
    root = pathlib.Path(folder)
    (root / "toy").mkdir()
    toy_features.write(root / "toy")
    changes = {
      "loop.steps": num_steps,
      "loop.log_every_steps": 5,
      "checkpoint.save_every_percent": 100 * SAVE_STEPS / num_steps,
    }
    runs = {name: root / name for name in ("clean", "soaked")}
    commands = {
      name: cluster.arguments(root / "toy", path, **changes)
      for name, path in runs.items()
    }
    cluster.run(commands["clean"], num_devices=1).check()
    began_sec = time.monotonic()
    counts = trained_under_faults(commands["soaked"], runs["soaked"], options)
    wall_sec = time.monotonic() - began_sec
    starts = orjson.loads((runs["soaked"] / goodput.GOODPUT_FILE).read_bytes())[
      "starts"
    ]
    done = sum(start["last_step"] - start["start_step"] for start in starts)
    kept = num_steps / max(done, num_steps)
    params = [checkpoint.restore_params(path)[0] for path in runs.values()]
    equal = all(
      np.array_equal(a, b)
      for a, b in zip(*map(jax.tree.leaves, params), strict=True)
    )
    losses = [cluster.losses(path)[num_steps] for path in runs.values()]
  figures = {
    "wall_sec": round(wall_sec, 1),
    "faults": counts,
    "starts": len(starts),
    "steps": num_steps,
    "work_kept_over_done": round(kept, 4),
    "final_loss": losses[1],
    "clean_loss": losses[0],
    "parameters_bit_equal": equal,
  }
  print(json.dumps(figures, indent=1))
  print("targets: work_kept_over_done >= 0.9, final_loss == clean_loss")
  if options.json:
    pathlib.Path(options.json).write_text(json.dumps(figures))
  return 0 if kept >= 0.9 and losses[0] == losses[1] and equal else 1


if __name__ == "__main__":
  sys.exit(main())
