"""Assigns the GPUs of a node to the processes of a Slurm step.

By default JAX uses one GPU per process, whose index is that of the process on
its node. One process for a whole node would leave all but the first GPU idle,
and if each task sees only its own GPUs (--gpus-per-task) that index does not
exist.
"""

import re
from collections.abc import Mapping

_JOB = "SLURM_JOB_ID"
_STEP_NODES = "SLURM_STEP_NODELIST"
_PROCESS = "SLURM_PROCID"
_LOCAL = "SLURM_LOCALID"
_NODE = "SLURM_NODEID"
_TASKS = "SLURM_STEP_TASKS_PER_NODE"  # "8(x2),4" for three nodes
_GPUS = "SLURM_GPUS_ON_NODE"
_VISIBLE = "CUDA_VISIBLE_DEVICES"


def check_step(environment: Mapping[str, str]) -> None:
  """Checks that a process of a Slurm job was started by srun.

  Raises:
    ValueError: the process runs in the job script itself, outside a step.
  """
  if _JOB in environment and _STEP_NODES not in environment:
    raise ValueError(
      f"--distributed: {_JOB} is set and {_STEP_NODES} is not: this process is "
      "part of a Slurm job and of no step. Start it with srun."
    )


def process_index(environment: Mapping[str, str]) -> int | None:
  """Returns the index of this process in its step; None without Slurm."""
  if not _in_step(environment):
    return None
  return int(environment[_PROCESS])


def index_on_node(environment: Mapping[str, str]) -> int:
  """Returns the index of this process on its node; 0 without Slurm."""
  return int(environment[_LOCAL]) if _in_step(environment) else 0


def _in_step(environment: Mapping[str, str]) -> bool:
  return all(
    name in environment for name in (_JOB, _STEP_NODES, _PROCESS, _LOCAL)
  )


def local_device_ids(environment: Mapping[str, str]) -> list[int] | None:
  """Returns the indices of this process's GPUs among its visible ones.

  Processes that see the same GPUs share them evenly, in order.

  Args:
    environment: environment variables set by Slurm.

  Returns:
    The indices; an empty list for all; None outside of a Slurm step.

  Raises:
    ValueError: the processes of the node cannot share its GPUs evenly.
  """
  if not _in_step(environment):
    return None
  num_tasks = _tasks_on_node(environment)
  local = int(environment[_LOCAL])
  on_node = environment.get(_GPUS, "")
  num_on_node = int(on_node) if on_node.isdigit() else None
  if _VISIBLE in environment:
    visible = [part for part in environment[_VISIBLE].split(",") if part]
    num_visible = len(visible)
  else:
    num_visible = num_on_node
  if num_tasks == 1:
    return []
  if num_visible is None:  # no GPUs were requested
    return [local]
  is_bound = num_visible == 1 or num_visible < (num_on_node or 0)
  if is_bound:
    return list(range(num_visible))
  share, rest = divmod(num_visible, num_tasks)
  if rest:
    raise ValueError(
      f"{num_tasks} processes on one node share {num_visible} GPUs; expected a "
      "multiple: choose --ntasks-per-node so that it divides them."
    )
  return list(range(local * share, (local + 1) * share))


def _tasks_on_node(environment: Mapping[str, str]) -> int:
  counts: list[int] = []
  for part in environment.get(_TASKS, "1").split(","):
    match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
    if match is None:
      raise ValueError(
        f'{_TASKS}: got {environment[_TASKS]!r}; expected "8" or "8(x2),4".'
      )
    counts += [int(match[1])] * int(match[2] or 1)
  node = int(environment.get(_NODE, "0"))
  return counts[node] if node < len(counts) else counts[-1]
