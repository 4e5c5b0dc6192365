"""One run of the tiny task: `python -m tests.training.tiny_run WORKDIR`."""

import argparse
import dataclasses
import os
import signal

import numpy as np

from clap_jax import config as config_lib
from clap_jax.storage import leases, locations
from clap_jax.training import device_batches
from clap_jax.training import fit as fit_lib
from tests.training import tiny_task

OPTIMIZER = config_lib.OptimizerConfig(
  learning_rate=1e-2, weight_decay=0.1, ema_decay=0.9
)


def steps(value):
  return config_lib.Duration(value, "steps")


def config(num_steps, *, save_every=2, **sections):
  """The config of a run; keyword arguments are sections of it."""
  defaults = {
    "trainer": "tiny",
    "optimizer": OPTIMIZER,
    "loop": config_lib.LoopConfig(length=steps(num_steps), log_every=steps(1)),
    "checkpoint": config_lib.CheckpointConfig(save_every=steps(save_every)),
  }
  return config_lib.RunConfig(**(defaults | sections))


def run(
  workdir,
  *,
  num_steps,
  save_every=2,
  batches_from=None,
  task=tiny_task.TinyTask(),
  **kwargs,
):
  """Trains the tiny task; others are config sections or fields of `fit.Run`."""
  names = {field.name for field in dataclasses.fields(config_lib.RunConfig)}
  sections = {name: kwargs.pop(name) for name in names & kwargs.keys()}
  return fit_lib.fit(
    fit_lib.Run(
      task=task,
      workdir=locations.at(workdir),
      config=config(num_steps, save_every=save_every, **sections),
      batches_from=batches_from or tiny_task.batches_from,
      # What a test's own batches do, they do at their step.
      batches_ahead=0 if batches_from else device_batches.AHEAD,
      show_progress=False,
      **kwargs,
    )
  )


def signalling_batches(step_number, signal_number):
  """The task's batches; the process signals itself at one of them."""

  def batches_from(start_step):
    batches = tiny_task.batches_from(start_step)
    for step, batch in enumerate(batches, start=start_step + 1):
      if step == step_number:
        os.kill(os.getpid(), signal_number)
      yield batch

  return batches_from


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument("workdir", type=locations.at)
  parser.add_argument("--steps", type=int, required=True)
  parser.add_argument("--kill-at", type=int, default=0)
  parser.add_argument("--lease-sec", type=float, default=leases.DURATION_SEC)
  arguments = parser.parse_args()
  leases.DURATION_SEC = arguments.lease_sec
  run(
    arguments.workdir,
    num_steps=arguments.steps,
    batches_from=signalling_batches(arguments.kill_at, signal.SIGKILL),
    evaluate=lambda params, step: {
      "eval/weight": float(np.sum(params["head"]["kernel"]))
    },
  )


if __name__ == "__main__":
  main()
