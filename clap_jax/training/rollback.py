"""Rolls back to the last good checkpoint and skips the batches since.

Skipping an update is enough for a single bad batch. If many updates in a row
are skipped, the parameters may be the cause, so the run restores those of the
last checkpoint before the first skip, drops the batches in between, and
continues with the batch after the last one skipped. The step number never
decreases.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from clap_jax.storage import locations, untrusted
from clap_jax.training import checkpoint as checkpoint_lib
from clap_jax.training import hooks, processes, sharding
from clap_jax.training import state as state_lib
from clap_jax.training import workdir as workdir_lib

RECORD_FILE = "skipped_batches.json"


def roll_back(
  error: hooks.SkipLimitError,
  *,
  workdir: locations.Location,
  checkpoints: checkpoint_lib.Checkpoints,
  abstract: state_lib.TrainState,
  fresh: Callable[[], state_lib.TrainState],
  maximum: int,
) -> tuple[state_lib.TrainState, int]:
  """Returns the state to resume from and the step of its parameters.

  The state itself is at `error.step`.

  The batches are recorded in WORKDIR/skipped_batches.json: batch n is consumed
  by step n + 1 and holds the items from n times the batch size on.

  Args:
    error: error raised by the guard.
    workdir: directory of the run.
    checkpoints: checkpoints of the run; those since the first skip are deleted.
    abstract: see Checkpoints.restore.
    fresh: makes the initial state, for when no checkpoint is old enough.
    maximum: maximum number of rollbacks in a run.

  Raises:
    hooks.SkipLimitError: `error`, if `maximum` is reached.
  """
  first_bad = error.step - error.in_a_row + 1
  final = error.num_rollbacks >= maximum
  good_step = checkpoints.discard_from(first_bad) if not final else None
  if processes.is_first():
    _record(workdir, error, first_bad, good_step)
  if final:
    raise error
  restored = checkpoints.restore(abstract)
  state, good_step = (
    (restored.state, restored.step) if restored else (fresh(), 0)
  )
  processes.print_on_first(
    f"{error}\ngoing back to the parameters of step {good_step} and on with "
    f"step {error.step + 1}; the batches between are skipped, see "
    f"{workdir / RECORD_FILE}"
  )
  counts = {
    "step": error.step,
    "num_skipped": error.total,
    "num_skipped_in_a_row": 0,
    "num_rollbacks": error.num_rollbacks + 1,
  }
  replaced = {
    name: sharding.put_whole(
      np.asarray(value, getattr(abstract, name).dtype),
      getattr(abstract, name).sharding,
    )
    for name, value in counts.items()
  }
  return dataclasses.replace(state, **replaced), good_step


def _record(workdir, error, first_bad: int, good_step: int | None) -> None:
  path = workdir / RECORD_FILE
  entries = untrusted.read_json(path) if path.is_file() else []
  # A run that was killed right afterwards repeats this.
  entries = [entry for entry in entries if entry["step"] != error.step]
  batches: dict[str, Any] = {
    "bad_batches": list(range(first_bad - 1, error.step)),
    "left_out_from_batch": good_step,  # to the last bad one; None: stopped here
  }
  entries.append({"step": error.step, **batches, "reason": str(error)})
  workdir_lib.write_json(path, entries)
