"""Runs training: lock, mesh, state, restore, steps with hooks, save."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from clap_jax import config as config_lib
from clap_jax.storage import locations
from clap_jax.training import checkpoint as checkpoint_lib
from clap_jax.training import (
  device_batches,
  goodput,
  preemption,
  processes,
  rollback,
  utilization,
  watchdog,
)
from clap_jax.training import hooks as hooks_lib
from clap_jax.training import mesh as mesh_lib
from clap_jax.training import plan as plan_lib
from clap_jax.training import sharding as sharding_lib
from clap_jax.training import state as state_lib
from clap_jax.training import task as task_lib
from clap_jax.training import workdir as workdir_lib
from clap_jax.training import writer as writer_lib
from clap_jax.types import Device

TrainState = state_lib.TrainState
PROFILE_DIRECTORY = "profile"
EVALUATION_PREFIX = "eval/"  # of the scalars of an evaluation


class RunFailedError(RuntimeError):
  """Raised if the system refuses reads or writes during a run."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
  """A training run: its task, data, duration and directory.

  Attributes:
    task: task to train.
    workdir: directory of this run alone; holds config.json, environment.json,
      metrics.jsonl and checkpoints/.
    config: the trainer's whole resolved config; a run can only be resumed with
      the same (except for workdir.CHANGEABLE_KEYS).
    batches_from: function from the number of completed steps to an iterator
      over the host batches of the following steps, with the rows of
      mesh.batch_rows for the ambient mesh. A pure function.
    batches_ahead: number of batches prefetched to the devices; 0 for none.
    evaluate: function (params, completed steps) -> scalars by path, below
      EVALUATION_PREFIX; called every loop.eval_every and after the last step,
      each time after the checkpoint of that step; gets the moving average if
      there is one.
    prepare: changes the state before the first step, e.g. to start from other
      parameters; not called when a run is resumed.
    steps_per_epoch: steps of an epoch, for durations in epochs.
    sharding_rules: see sharding.partition_specs.
    devices: devices to use; None for all.
    title: title of the progress bar.
    show_progress: whether to report progress on standard error.
  """

  task: task_lib.Task
  workdir: locations.Location
  config: config_lib.RunConfig
  batches_from: Callable[[int], Iterator[Any]]
  batches_ahead: int = device_batches.AHEAD
  evaluate: Callable[[Any, int], Mapping[str, Any]] | None = None
  prepare: Callable[[TrainState], TrainState] | None = None
  steps_per_epoch: int | None = None
  sharding_rules: tuple[sharding_lib.Rule, ...] = ()
  devices: list[Device] | None = None
  title: str = "training"
  show_progress: bool = True


def fit(run: Run) -> TrainState:
  """Trains a run to its end, resuming it if it has checkpoints.

  If killed at any point and called again with the same arguments, it ends with
  bit-identical parameters. A finished run is restored and returned immediately,
  after its last evaluation if that is missing. A run of no steps saves its
  initial parameters.

  Returns:
    The state after the last step.

  Raises:
    workdir.WorkdirBusyError: another trainer uses the directory.
    preemption.Preempted: after SIGTERM, once the state is saved; a SystemExit
      with code 0.
    hooks.SkipLimitError: the guard exceeded the limit of rollbacks.
    RunFailedError: a read or write failed during the run.
    ValueError: the config does not match the workdir, the mesh, the checkpoint
      or the parameters.
  """
  steps = _resolve_steps(run)
  with contextlib.ExitStack() as stack:
    stop = stack.enter_context(preemption.watch_sigterm())
    holds: list[Callable[[], None]] = []  # of process 0
    processes.broadcast_from_first(
      f"use {run.workdir}",
      lambda: holds.append(_take(stack, run.workdir, run.config)),
    )
    mesh = mesh_lib.make_mesh(run.config.mesh, devices=run.devices)
    stack.enter_context(jax.set_mesh(mesh))
    plan = plan_lib.plan_run(
      run.task,
      run.config,
      mesh=mesh,
      steps_per_epoch=run.steps_per_epoch,
      sharding_rules=run.sharding_rules,
    )
    stack.enter_context(_run_failures(run.workdir))
    checkpoints = checkpoint_lib.Checkpoints(
      run.workdir / checkpoint_lib.CHECKPOINT_DIRECTORY,
      keep=run.config.checkpoint.keep,
      check=holds[0] if holds else None,
    )
    stack.push(_closing(checkpoints))
    restored = checkpoints.restore(plan.abstract)
    start_step = restored.step if restored else 0
    is_trained = restored is not None and start_step >= steps.last
    evaluates_first = (
      restored is not None
      and run.evaluate is not None
      and _evaluation_is_missing(run.workdir, steps, start_step)
    )
    if restored is not None and is_trained and not evaluates_first:
      return restored.state
    if processes.is_first():
      workdir_lib.write_environment(run.workdir, mesh)
    if run.show_progress and not is_trained:
      processes.print_on_first(
        f"{run.title}: steps {start_step + 1} to {steps.last} in {run.workdir}"
        f"\n{plan.describe()}"
      )
    trainer = _Trainer(run, steps, plan, checkpoints, mesh, stop)
    state = restored.state if restored else trainer.fresh()
    if steps.last == 0:  # untrained parameters, as a baseline
      trainer.save(0, state)
      return state
    return trainer.train(state, start_step, evaluates_first=evaluates_first)


@dataclasses.dataclass(frozen=True)
class _Steps:
  """Durations of the run in steps."""

  last: int
  log_every: int
  save_every: int
  eval_every: int | None


@dataclasses.dataclass
class _Trainer:
  """Runs one start of a run, with its hooks and rollbacks."""

  run: Run
  steps: _Steps
  plan: plan_lib.Plan
  checkpoints: checkpoint_lib.Checkpoints
  mesh: jax.sharding.Mesh
  stop: preemption.StopRequest

  def fresh(self) -> TrainState:
    """Returns the state before the first step."""
    state = self.plan.make(np.uint32(self.run.config.loop.seed))
    return state if self.run.prepare is None else self.run.prepare(state)

  @property
  def metadata(self) -> dict[str, Any]:
    """Returns facts that a checkpoint records with the state."""
    return {
      "seed": self.run.config.loop.seed,
      "config_hash": config_lib.config_hash(self.run.config),
    }

  def save(self, step: int, state: TrainState) -> None:
    self.checkpoints.save(step, state, metadata=self.metadata)

  def train(
    self, state: TrainState, start_step: int, *, evaluates_first: bool
  ) -> TrainState:
    """Runs the steps; rolls back to a checkpoint if the guard gives up."""
    run, loop = self.run, self.run.config.loop
    with contextlib.ExitStack() as stack:
      self.tracker = goodput.GoodputTracker(run.workdir, start_step=start_step)
      stack.callback(_close_tracker, self.tracker, show=run.show_progress)
      writer = writer_lib.open_writer(
        run.workdir, step=start_step, tensorboard=loop.tensorboard
      )
      stack.callback(writer.close)
      self.hooks = self._make_hooks(writer, start_step=start_step)
      for hook in self.hooks:
        stack.callback(hook.close)
      self.watchdog = stack.enter_context(
        watchdog.Watchdog(stall_timeout_sec=loop.stall_timeout_sec)
      )
      if evaluates_first:
        self.watchdog.enter(watchdog.HOOKS, start_step)
        self.hooks[-1].on_state(start_step, state, stopping=False)
      while start_step < self.steps.last:
        try:
          return self._run_steps(state, start_step)
        except hooks_lib.SkipLimitError as error:
          state, good_step = rollback.roll_back(
            error,
            workdir=run.workdir,
            checkpoints=self.checkpoints,
            abstract=self.plan.abstract,
            fresh=self.fresh,
            maximum=loop.max_rollbacks,
          )
          start_step = error.step
          self.tracker.record_rollback(start_step, good_step)
          self.save(start_step, state)
    return state

  def _run_steps(self, state: TrainState, start_step: int) -> TrainState:
    """Trains from `start_step` to the last step; donates `state`.

    The metrics of a step are fetched after the next step has been dispatched,
    so that the device does not wait for the host; the host waits for a step
    only before hooks that need the state.

    Raises:
      preemption.Preempted: after a stop request; hooks have run on the state.
      hooks.SkipLimitError: raised by the guard; the state is lost.
      ValueError: the batches end too early.
    """
    batches = device_batches.DeviceBatches(
      iter(self.run.batches_from(start_step)),
      lambda batch: sharding_lib.put_batch(batch, self.mesh),
      ahead=self.run.batches_ahead,
    )
    try:
      clock = utilization.Clock(self.tracker)
      step_function, pending = self.plan.step_function, None
      for step in range(start_step + 1, self.steps.last + 1):
        batch = self._next_batch(batches, step, clock)
        if step == start_step + 1:
          clock.utilization = utilization.Utilization(
            step_function, state, batch
          )
          step_function = processes.compiled_by_all(step_function, state, batch)
        # Profiles delimit steps by this annotation.
        with jax.profiler.StepTraceAnnotation("train", step_num=step):
          state, metrics = step_function(state, batch)
        self.watchdog.enter(watchdog.DEVICE, step)
        if pending is not None:
          self._deliver(*pending, clock, batches)
        pending = step, metrics
        last = step == self.steps.last
        stopping = self.stop.is_due(step) and not last
        wanting = [
          hook
          for hook in self.hooks
          if hook.wants_state(step) or last or stopping
        ]
        if wanting:
          self._deliver(*pending, clock, batches)
          pending = None
          self.tracker.reached(step)
          begin_sec = time.perf_counter()
          self.watchdog.enter(watchdog.HOOKS, step)
          for hook in wanting:
            hook.on_state(step, state, stopping=stopping)
          clock.exclude(time.perf_counter() - begin_sec)
        if stopping:
          preempted = preemption.Preempted(step)
          processes.print_on_first(str(preempted))
          raise preempted
      with self.tracker.measured("saving"):
        self.checkpoints.wait()
      return state
    finally:
      batches.close()

  def _next_batch(
    self,
    batches: device_batches.DeviceBatches,
    step: int,
    clock: utilization.Clock,
  ) -> Any:
    """Returns the batch of a step on the devices."""
    begin_sec = time.perf_counter()
    self.watchdog.enter(watchdog.INPUT, step - 1)
    batch = next(batches, None)
    if batch is None:
      raise ValueError(
        f"The batches ended after step {step - 1}; the run has "
        f"{self.steps.last} steps: the source must repeat."
      )
    input_sec = time.perf_counter() - begin_sec
    clock.add_input_wait(input_sec)
    self.watchdog.spent(input_sec)
    self.watchdog.enter(watchdog.DISPATCH, step - 1)
    return batch

  def _deliver(self, step: int, metrics, clock, batches) -> None:
    """Waits for a step's metrics and passes them to the hooks."""
    wanting = [hook for hook in self.hooks if hook.wants_metrics(step)]
    # Even without hooks: a host that runs ahead would fill the memory.
    jax.block_until_ready(metrics["loss"])
    clock.finish_step()
    if not wanting:
      return
    host = {f"train/{k}": v for k, v in jax.device_get(metrics).items()}
    host |= clock.read() | batches.scalars()
    for hook in wanting:
      hook.on_metrics(step, host)

  def _make_hooks(self, writer, *, start_step: int) -> list[hooks_lib.Hook]:
    """Returns the hooks in calling order, the evaluation last."""
    run, steps, loop = self.run, self.steps, self.run.config.loop
    hooks: list[hooks_lib.Hook] = [
      hooks_lib.MetricsLog(
        writer, every_steps=steps.log_every, last_step=steps.last
      ),
      hooks_lib.Accounting(self.tracker, every_steps=steps.log_every),
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
    if run.show_progress and processes.is_first():
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
        self.checkpoints,
        writer,
        every_steps=steps.save_every,
        last_step=steps.last,
        metadata=self.metadata,
        tracker=self.tracker,
      )
    )
    if run.evaluate is not None:
      hooks.append(
        hooks_lib.Evaluation(
          run.evaluate,
          writer,
          every_steps=steps.eval_every,
          tracker=self.tracker,
        )
      )
    return hooks


@contextlib.contextmanager
def _run_failures(workdir: locations.Location) -> Iterator[None]:
  """Converts system errors to a RunFailedError.

  Raises:
    RunFailedError: for an OSError other than a FileNotFoundError.
  """
  try:
    yield
  except FileNotFoundError:
    raise
  except OSError as error:
    raise RunFailedError(
      f"The run in {workdir} cannot continue: {error}. Its complete "
      "checkpoints are intact: fix the cause and run the same command again."
    ) from error


def _evaluation_is_missing(
  workdir: locations.Location, steps: _Steps, start_step: int
) -> bool:
  """Returns True if the evaluation due at `start_step` is not recorded.

  This happens if the evaluation failed, or the process ended, after the
  checkpoint that the run resumes from.
  """
  every = steps.eval_every
  is_due = start_step == steps.last or (every and start_step % every == 0)
  if not is_due or start_step == 0:
    return False
  return processes.broadcast_from_first(
    f"read the record in {workdir}",
    lambda: (
      not writer_lib.has_scalars(workdir, start_step, prefix=EVALUATION_PREFIX)
    ),
  )


def _close_tracker(tracker: goodput.GoodputTracker, *, show: bool) -> None:
  if processes.is_first():
    tracker.write()
    if show:
      processes.print_on_first(tracker.summary())


def _take(stack: contextlib.ExitStack, workdir, config) -> Callable[[], None]:
  """Locks the directory; returns a check that raises if the lock is lost."""
  check = stack.enter_context(workdir_lib.locked(workdir))
  workdir_lib.write_config(workdir, config)
  return check


def _closing(checkpoints: checkpoint_lib.Checkpoints) -> Callable:
  """Closes at the end of a block; a failed run does not wait for others."""

  def close(error_type, *_):
    failed = error_type is not None and issubclass(error_type, Exception)
    if not (failed and processes.count() > 1):
      checkpoints.close()

  return close


def _resolve_steps(run: Run) -> _Steps:
  per_epoch = run.steps_per_epoch
  last = run.config.loop.length.in_steps(steps_per_epoch=per_epoch)

  def resolved(duration):
    return duration.in_steps(total_steps=last, steps_per_epoch=per_epoch)

  eval_every = run.config.loop.eval_every
  return _Steps(
    last=last,
    log_every=resolved(run.config.loop.log_every),
    save_every=resolved(run.config.checkpoint.save_every),
    eval_every=resolved(eval_every) if eval_every else None,
  )
