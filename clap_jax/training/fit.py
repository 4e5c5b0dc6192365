"""A whole training run: lock, mesh, state, restore, loop, save."""

import contextlib
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from clap_jax import config as config_lib
from clap_jax.training import checkpoint as checkpoint_lib
from clap_jax.training import mesh as mesh_lib
from clap_jax.training import plan as plan_lib
from clap_jax.training import preemption, processes
from clap_jax.training import sharding as sharding_lib
from clap_jax.training import start as start_lib
from clap_jax.training import state as state_lib
from clap_jax.training import task as task_lib
from clap_jax.training import workdir as workdir_lib

TrainState = state_lib.TrainState


def fit(
  task: task_lib.Task,
  *,
  workdir: str | pathlib.Path,
  config: Any,
  optimizer: config_lib.OptimizerConfig,
  loop: config_lib.LoopConfig,
  batches_from: Callable[[int], Iterator[Any]],
  checkpoint: config_lib.CheckpointConfig | None = None,
  mesh: config_lib.MeshConfig | None = None,
  evaluate: Callable[[Any, int], Mapping[str, Any]] | None = None,
  prepare: Callable[[TrainState], TrainState] | None = None,
  steps_per_epoch: int | None = None,
  sharding_rules: tuple[sharding_lib.Rule, ...] = (),
  devices: list[jax.Device] | None = None,
  title: str = "training",
  show_progress: bool = True,
) -> TrainState:
  """Trains, or continues, the run in `workdir` to its end.

  Killed anywhere and called again with the same arguments, it ends with the
  same parameters, bit for bit. A finished run is restored and returned at once,
  unless its last evaluation is missing: that is then made.
  A run of no steps saves its initial parameters.

  Args:
    task: what is learned.
    workdir: of this run alone; holds config.json, environment.json,
      metrics.jsonl and checkpoints/.
    config: the trainer's whole resolved config, for the record; a run can only
      be continued with the same (see workdir.CHANGEABLE_KEYS for exceptions).
    optimizer: how to learn.
    loop: how long.
    batches_from: steps done -> iterator over the host batches of the steps
      after that; the rows of mesh.batch_rows. A pure function of its argument.
    checkpoint: when to save; None for the defaults.
    mesh: of the devices; None for the defaults.
    evaluate: (params, steps done) -> scalars by path, below
      start.EVALUATION_PREFIX; called as loop.eval_every says and after the last
      step, each time once the checkpoint that is due then has been saved; gets
      the moving average if there is one.
    prepare: changes the state before the first step, for example to start
      from other parameters; not called when the run is continued.
    steps_per_epoch: for durations in epochs.
    sharding_rules: see sharding.partition_specs.
    devices: to use; None for all.
    title: of the progress bar.
    show_progress: whether to report on standard error.

  Returns:
    The state after the last step.

  Raises:
    workdir.WorkdirBusyError: if another trainer is at work there.
    preemption.Preempted: after SIGTERM, once the state is saved. It is a
      SystemExit with code 0.
    hooks.SkipLimitError: if the guard gave up once too often.
    start.RunFailedError: if writing or reading is refused on the way.
    ValueError: for a config that does not fit the workdir, the mesh, the
      checkpoint or the parameters.
  """
  workdir = pathlib.Path(workdir)
  checkpoint = checkpoint or config_lib.CheckpointConfig()
  mesh = mesh or config_lib.MeshConfig()
  steps = _resolve_steps(loop, checkpoint, steps_per_epoch)
  with contextlib.ExitStack() as stack:
    stop = stack.enter_context(preemption.watch_sigterm())
    processes.first_decides(
      f"use {workdir}", lambda: _take(stack, workdir, config)
    )
    device_mesh = mesh_lib.make_mesh(mesh, devices=devices)
    stack.enter_context(jax.set_mesh(device_mesh))
    plan = plan_lib.plan_run(
      task,
      optimizer,
      loop=loop,
      mesh=device_mesh,
      total_steps=steps.last,
      steps_per_epoch=steps_per_epoch,
      sharding_rules=sharding_rules,
      fsdp_min_size=mesh.fsdp_min_size,
    )
    stack.enter_context(start_lib.refusals(workdir))
    checkpoints = checkpoint_lib.Checkpoints(
      workdir / checkpoint_lib.CHECKPOINT_DIRECTORY, keep=checkpoint.keep
    )
    stack.push(_closing(checkpoints))
    restored = checkpoints.restore(plan.abstract)
    start_step = restored.step if restored else 0
    is_trained = restored is not None and start_step >= steps.last
    evaluates_first = (
      restored is not None
      and evaluate is not None
      and start_lib.evaluation_is_missing(workdir, steps, start_step)
    )
    if is_trained and not evaluates_first:
      return restored.state
    if processes.is_first():
      workdir_lib.write_environment(workdir, device_mesh)
    if show_progress and not is_trained:
      announce(title, workdir, start_step, last_step=steps.last, plan=plan)

    def fresh():
      state = plan.make(np.uint32(loop.seed))
      return state if prepare is None else prepare(state)

    run = start_lib.Run(
      workdir=workdir,
      config=config,
      steps=steps,
      loop=loop,
      plan=plan,
      fresh=fresh,
      checkpoints=checkpoints,
      batches_from=batches_from,
      evaluate=evaluate,
      evaluates_first=evaluates_first,
      mesh=device_mesh,
      title=title if show_progress else None,
    )
    state = restored.state if restored else fresh()
    return start_lib.train(run, state, start_step, stop=stop)


def _take(stack: contextlib.ExitStack, workdir, config) -> None:
  stack.enter_context(workdir_lib.locked(workdir))
  workdir_lib.write_config(workdir, config)


def _closing(checkpoints: checkpoint_lib.Checkpoints) -> Callable:
  """Closes at the end of a block, but waits for nobody in a failed run."""

  def close(error_type, *_):
    failed = error_type is not None and issubclass(error_type, Exception)
    if not (failed and processes.count() > 1):
      checkpoints.close()

  return close


def _resolve_steps(loop, checkpoint, steps_per_epoch) -> start_lib.Steps:
  last = loop.length.in_steps(steps_per_epoch=steps_per_epoch)

  def resolved(duration):
    return duration.in_steps(total_steps=last, steps_per_epoch=steps_per_epoch)

  return start_lib.Steps(
    last=last,
    log_every=resolved(loop.log_every),
    save_every=resolved(checkpoint.save_every),
    eval_every=resolved(loop.eval_every) if loop.eval_every else None,
  )


def announce(title, workdir, start_step, *, last_step: int, plan) -> None:
  """What is about to happen, and what takes memory on every device."""
  state = plan.abstract
  num_devices = len(state.step.sharding.device_set)
  mib = {
    name: sharding_lib.bytes_per_device(tree) / 2**20
    for name, tree in (
      ("all", state),
      ("parameters", state.params),
      ("optimizer", state.opt_state),
      ("moving average", state.ema),
    )
  }
  lines = [
    f"{title}: steps {start_step + 1} to {last_step} in {workdir}",
    f"  {task_lib.num_parameters(state.params):,} parameters on {num_devices} "
    "device(s)",
    f"  {mib.pop('all'):,.1f} MiB of state on each device: "
    + ", ".join(f"{name} {size:,.1f}" for name, size in mib.items() if size),
  ]
  if num_devices > 1:
    largest = sharding_lib.largest_replicated(state, plan.shardings, count=3)
    lines += [
      f"  whole on every device: {array.path} {list(array.shape)}, "
      f"{array.num_bytes / 2**20:,.1f} MiB"
      for array in largest
      if array.num_bytes >= 2**20
    ] or ["  nothing of 1 MiB or more is whole on every device"]
  processes.say("\n".join(lines))
