"""Plans a run: shapes, shardings and the step function.

Both `fit` and `compile_ahead` use this plan, so that they run and compile the
same program.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from clap_jax import config as config_lib
from clap_jax.training import deterministic
from clap_jax.training import optimizer as optimizer_lib
from clap_jax.training import sharding as sharding_lib
from clap_jax.training import state as state_lib
from clap_jax.training import step as step_lib
from clap_jax.training import task as task_lib


class Plan(NamedTuple):
  """Shapes and shardings of the state, and the step function."""

  abstract: state_lib.TrainState  # of jax.ShapeDtypeStruct with shardings
  shardings: state_lib.TrainState
  make: Callable  # seed, uint32 () -> the state before the first step
  step_function: step_lib.StepFunction

  def describe(self) -> str:
    """Describes the memory of the state on every device."""
    state = self.abstract
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
      f"  {task_lib.num_parameters(state.params):,} parameters on "
      f"{num_devices} device(s)",
      f"  {mib.pop('all'):,.1f} MiB of state on each device: "
      + ", ".join(f"{name} {size:,.1f}" for name, size in mib.items() if size),
    ]
    if num_devices > 1:
      largest = sharding_lib.largest_replicated(state, self.shardings, count=3)
      lines += [
        f"  replicated on every device: {array.path} {list(array.shape)}, "
        f"{array.num_bytes / 2**20:,.1f} MiB"
        for array in largest
        if array.num_bytes >= 2**20
      ] or ["  no array of 1 MiB or more is replicated on every device"]
    return "\n".join(lines)


def plan_run(
  task: task_lib.Task,
  config: config_lib.RunConfig,
  *,
  mesh: jax.sharding.Mesh,
  steps_per_epoch: int | None = None,
  sharding_rules: tuple[sharding_lib.Rule, ...] = (),
) -> Plan:
  """Plans a run on `mesh`, which must be the ambient one as well.

  Args:
    mesh: mesh of the devices, which need not be present.
    sharding_rules: see sharding.partition_specs.

  Raises:
    ValueError: settings do not match the mesh or the parameters.
  """
  optimizer = config.optimizer
  update = optimizer_lib.make_optimizer(
    optimizer,
    # Traced, including the key: the ambient mesh may have absent devices.
    jax.eval_shape(lambda: task.init(jax.random.key(0))),
    total_steps=config.loop.length.in_steps(steps_per_epoch=steps_per_epoch),
    steps_per_epoch=steps_per_epoch,
  )

  def init(seed):
    ema = optimizer.ema_decay is not None
    return state_lib.init_state(task, update, seed=seed, ema=ema)

  shapes = jax.eval_shape(init, np.uint32(0))
  specs = sharding_lib.partition_specs(
    shapes.params,
    mesh,
    rules=sharding_rules,
    fsdp_min_size=config.mesh.fsdp_min_size,
  )
  shardings = sharding_lib.state_shardings(shapes, specs, mesh)
  abstract = jax.tree.map(
    lambda leaf, sharding: jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=sharding
    ),
    shapes,
    shardings,
  )
  settings = {
    "ema_decay": optimizer.ema_decay,
    "outlier_deviations": config.loop.outlier_deviations,
    "state_shardings": shardings,
  }
  sliced = task.sliced() if isinstance(task, task_lib.SlicedTask) else None
  make = jax.jit(init, out_shardings=shardings)
  if sliced is None:
    step_function = step_lib.make_train_step(task, update, **settings)
  else:
    make = deterministic.on_one_device(init, shardings)
    step_function = deterministic.DeterministicStep(
      sliced, update, mesh=mesh, **settings
    )
  return Plan(abstract, shardings, make, step_function)
