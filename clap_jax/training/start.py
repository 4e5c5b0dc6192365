"""The steps of one start of a run, with all that happens beside them."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax

from clap_jax import config as config_lib
from clap_jax.training import checkpoint as checkpoint_lib
from clap_jax.training import (
  goodput,
  processes,
  rollback,
  watchdog,
)
from clap_jax.training import hooks as hooks_lib
from clap_jax.training import loop as loop_lib
from clap_jax.training import plan as plan_lib
from clap_jax.training import sharding as sharding_lib
from clap_jax.training import state as state_lib
from clap_jax.training import writer as writer_lib

TrainState = state_lib.TrainState
PROFILE_DIRECTORY = "profile"
EVALUATION_PREFIX = "eval/"  # of the scalars of an evaluation


class RunFailedError(RuntimeError):
  """The system refused what a run needs, in the middle of it."""


@contextlib.contextmanager
def refusals(workdir: pathlib.Path) -> Iterator[None]:
  """Tells a run that breaks from a command that is wrong.

  Raises:
    RunFailedError: for an OSError, unless it says that a file is not there.
  """
  try:
    yield
  except FileNotFoundError:
    raise
  except OSError as error:
    raise RunFailedError(
      f"The run in {workdir} cannot go on: {error}. Its complete checkpoints "
      "are untouched: run the same command again once the cause is gone."
    ) from error


@dataclasses.dataclass(frozen=True)
class Steps:
  """The run's durations, in steps."""

  last: int
  log_every: int
  save_every: int
  eval_every: int | None


@dataclasses.dataclass(frozen=True)
class Run:
  """All that stays the same from the first step of a start to the last."""

  workdir: pathlib.Path
  config: Any
  steps: Steps
  loop: config_lib.LoopConfig
  plan: plan_lib.Plan
  fresh: Callable[[], TrainState]
  checkpoints: checkpoint_lib.Checkpoints
  batches_from: Callable[[int], Iterator[Any]]
  evaluate: Callable[[Any, int], Mapping[str, Any]] | None
  evaluates_first: bool  # see evaluation_is_missing
  mesh: jax.sharding.Mesh
  title: str | None  # None reports nothing

  @property
  def metadata(self) -> dict[str, Any]:
    """What a checkpoint says beside the state."""
    return {
      "seed": self.loop.seed,
      "config_hash": config_lib.config_hash(self.config),
    }


def evaluation_is_missing(
  workdir: pathlib.Path, steps: Steps, start_step: int
) -> bool:
  """Whether the evaluation after `start_step` was due and is not recorded.

  So it is if the evaluation failed, or the process ended, after the checkpoint
  that the run now goes on from.
  """
  every = steps.eval_every
  is_due = start_step == steps.last or (every and start_step % every == 0)
  if not is_due or start_step == 0:
    return False
  return processes.first_decides(
    f"read the record in {workdir}",
    lambda: (
      not writer_lib.has_scalars(workdir, start_step, prefix=EVALUATION_PREFIX)
    ),
  )


def train(run: Run, state: TrainState, start_step: int, *, stop) -> TrainState:
  """The loop, and again from a checkpoint where the guard gives up."""
  if run.steps.last == 0:  # untrained parameters, as a baseline
    run.checkpoints.save(0, state, metadata=run.metadata)
    return state
  with contextlib.ExitStack() as stack:
    ledger = goodput.Ledger(run.workdir, start_step=start_step)
    stack.callback(_close_ledger, ledger, show=run.title is not None)
    writer = writer_lib.open_writer(
      run.workdir, step=start_step, tensorboard=run.loop.tensorboard
    )
    stack.callback(writer.close)
    hooks = _make_hooks(run, writer, ledger, start_step=start_step)
    if run.evaluate is not None:
      evaluation = hooks_lib.Evaluation(
        run.evaluate,
        writer,
        every_steps=run.steps.eval_every,
        ledger=ledger,
      )
      hooks.append(evaluation)
    for hook in hooks:
      stack.callback(hook.close)
    dog = stack.enter_context(
      watchdog.Watchdog(stall_timeout_sec=run.loop.stall_timeout_sec)
    )
    if run.evaluates_first:
      dog.enter(watchdog.HOOKS, start_step)
      evaluation.on_state(start_step, state, stopping=False)
    while start_step < run.steps.last:
      batches = iter(run.batches_from(start_step))
      try:
        state = loop_lib.run_loop(
          state,
          step_function=run.plan.step_function,
          batches=batches,
          put_batch=lambda batch: sharding_lib.put_batch(batch, run.mesh),
          start_step=start_step,
          last_step=run.steps.last,
          hooks=hooks,
          stop=stop,
          dog=dog,
          ledger=ledger,
        )
        with ledger.measured("saving"):
          run.checkpoints.wait()
        return state
      except hooks_lib.SkipLimitError as error:
        state, good_step = rollback.roll_back(
          error,
          workdir=run.workdir,
          checkpoints=run.checkpoints,
          abstract=run.plan.abstract,
          fresh=run.fresh,
          maximum=run.loop.max_rollbacks,
        )
        start_step = error.step
        ledger.went_back(start_step, good_step)
        run.checkpoints.save(start_step, state, metadata=run.metadata)
      finally:
        if hasattr(batches, "close"):
          batches.close()
  return state


def _close_ledger(ledger: goodput.Ledger, *, show: bool) -> None:
  if processes.is_first():
    ledger.write()
    if show:
      processes.say(ledger.summary())


def _make_hooks(
  run: Run, writer, ledger: goodput.Ledger, *, start_step: int
) -> list[hooks_lib.Hook]:
  """All but the evaluation, in the order they are called."""
  steps, loop = run.steps, run.loop
  hooks = [
    hooks_lib.MetricsLog(
      writer, every_steps=steps.log_every, last_step=steps.last
    ),
    hooks_lib.Accounting(ledger, every_steps=steps.log_every),
    hooks_lib.Stragglers(writer, every_steps=steps.log_every),
    hooks_lib.SkipLimit(max_skipped_in_a_row=loop.max_skipped_in_a_row),
  ]
  if loop.profile_steps:
    hooks.append(
      hooks_lib.Profile(
        run.workdir / PROFILE_DIRECTORY,
        num_steps=loop.profile_steps,
        start_step=start_step,
        last_step=steps.last,
      )
    )
  if run.title is not None and processes.is_first():
    hooks.append(
      hooks_lib.Progress(
        title=run.title,
        start_step=start_step,
        last_step=steps.last,
        every_steps=steps.log_every,
      )
    )
  hooks.append(
    hooks_lib.Checkpointing(
      run.checkpoints,
      writer,
      every_steps=steps.save_every,
      last_step=steps.last,
      metadata=run.metadata,
      ledger=ledger,
    )
  )
  return hooks
