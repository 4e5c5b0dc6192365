"""Compiles a run's train step ahead of time for TPU slices."""

import re
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from clap_jax import config as config_lib
from clap_jax.training import flops as flops_lib
from clap_jax.training import hlo, paths
from clap_jax.training import mesh as mesh_lib
from clap_jax.training import plan as plan_lib
from clap_jax.training import sharding as sharding_lib
from clap_jax.training import task as task_lib
from clap_jax.training import topology as topology_lib
from clap_jax.types import Device

# The steps of an epoch are constants in the program: any number will do.
_STEPS_PER_EPOCH = 1000
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class TracedStep(NamedTuple):
  """A traced train step and its inputs."""

  plan: plan_lib.Plan
  batch: Any  # of jax.ShapeDtypeStruct with shardings
  mesh: jax.sharding.Mesh
  traced: Any  # jax.stages.Traced


def trace_step(
  task: task_lib.Task,
  batch: Any,
  *,
  devices: Sequence[Device],
  config: config_lib.RunConfig,
  sharding_rules: tuple[sharding_lib.Rule, ...] = (),
) -> TracedStep:
  """Traces the step that `fit` would run on `devices`, present or not.

  Args:
    batch: jax.ShapeDtypeStruct of the global batch.
    sharding_rules: see sharding.partition_specs.

  Raises:
    ValueError: mesh, batch and devices do not match.
  """
  device_mesh = mesh_lib.make_mesh(config.mesh, devices=devices)
  mesh_lib.check_batch_size(jax.tree.leaves(batch)[0].shape[0], device_mesh)
  by_batch = sharding_lib.batch_sharding(device_mesh)
  batch = jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=by_batch
    ),
    batch,
  )
  with jax.set_mesh(device_mesh):
    plan = plan_lib.plan_run(
      task,
      config,
      mesh=device_mesh,
      steps_per_epoch=_STEPS_PER_EPOCH,
      sharding_rules=sharding_rules,
    )
    if not hasattr(plan.step_function, "trace"):
      raise ValueError(
        "A deterministic step is made of programs for one chip each and cannot "
        "be compiled as one: compile the config with loss.deterministic=0."
      )
    traced = plan.step_function.trace(plan.abstract, batch)
  return TracedStep(plan, batch, device_mesh, traced)


def compile_step(
  task: task_lib.Task,
  batch: Any,
  *,
  config: config_lib.RunConfig,
  topology: topology_lib.Topology,
  sharding_rules: tuple[sharding_lib.Rule, ...] = (),
) -> dict:
  """Compiles the step that `fit` would run on `topology`; plain JSON values.

  Args:
    batch: jax.ShapeDtypeStruct of the global batch.
    topology: result of topology.describe.
    sharding_rules: see sharding.partition_specs.

  Returns:
    fits, peak_bytes_per_chip, limit_bytes_per_chip, missing_bytes_per_chip,
    flops_per_step (over all chips), collectives, roofline_step_sec and their
      inputs. A step that does not fit has the compiler's message as `reason`.

  Raises:
    ValueError: mesh, batch and topology do not match.
  """
  step = trace_step(
    task,
    batch,
    devices=topology.devices,
    config=config,
    sharding_rules=sharding_rules,
  )
  state = step.plan.abstract
  count = flops_lib.count(step.traced.jaxpr)
  resident = sharding_lib.bytes_per_device((state, step.batch))
  with jax.set_mesh(step.mesh):
    program = _compiled(
      step.traced.lower(), resident, num_slices=topology.num_slices
    )
  chip = topology.chip
  peak = chip.num_devices * program["peak_bytes"]
  document = {
    "fits": program["reason"] is None and peak <= chip.limit_bytes,
    "peak_bytes_per_chip": peak,
    "limit_bytes_per_chip": chip.limit_bytes,
    "missing_bytes_per_chip": max(0, peak - chip.limit_bytes),
    "state_bytes_per_chip": chip.num_devices
    * sharding_lib.bytes_per_device(state),
    "flops_per_step": count.flops,
    "loops_counted_once": count.unknown_loops,
    "collectives": [row._asdict() for row in program["collectives"]],
    "topology": topology.name,
    "num_slices": topology.num_slices,
    "num_chips": len(topology.devices) // chip.num_devices,
    "mesh": dict(step.mesh.shape),
    "batch_size": jax.tree.leaves(step.batch)[0].shape[0],
    "num_parameters": task_lib.num_parameters(state.params),
    "split_parameters": _split_parameters(state.params, chip.num_devices),
    "largest_replicated": [
      {"path": array.path, "bytes": array.num_bytes}
      for array in sharding_lib.largest_replicated(
        state, step.plan.shardings, count=5
      )
    ],
    "reason": program["reason"],
  }
  return document | _roofline(document, chip, program["moved"])


def _split_parameters(params: Any, devices_per_chip: int) -> dict[str, dict]:
  """Summarizes parameters by mesh axes: arrays, bytes, the largest one."""
  groups: dict[str, dict[str, Any]] = {}
  for path, leaf in paths.flatten(params).items():
    spec = leaf.sharding.spec
    over = " x ".join(sorted(axis for axis in spec if axis)) or "whole"
    groups.setdefault(over, {})[path] = leaf
  summary = {}
  for over, leaves in groups.items():
    path, largest = max(leaves.items(), key=lambda item: item[1].size)
    summary[over] = {
      "arrays": len(leaves),
      "bytes_per_chip": devices_per_chip
      * sharding_lib.bytes_per_device(leaves),
      "largest": path,
      "shape": list(largest.shape),
      "axes": [axis or "-" for axis in largest.sharding.spec],
    }
  return summary


def _compiled(lowered, resident_bytes: int, *, num_slices: int) -> dict:
  """Returns memory, traffic and collectives of a device, or the error."""
  try:
    with warnings.catch_warnings():
      # A program for other chips can be cached on disk but not read back.
      warnings.filterwarnings("ignore", "Error reading persistent compilation")
      compiled = lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    return {
      "peak_bytes": _wanted_bytes(str(error), resident_bytes),
      "collectives": [],
      "moved": None,
      "reason": str(error).strip()[:4000],
    }
  memory = compiled.memory_analysis()
  text = compiled.as_text()
  partitions = re.search(r"num_partitions=(\d+)", text)
  return {
    "peak_bytes": memory.peak_memory_in_bytes,
    "collectives": hlo.collectives(
      text,
      num_devices=int(partitions[1]) if partitions else 1,
      num_slices=num_slices,
    ),
    # At the least: arguments read, results written, temporaries both.
    "moved": memory.argument_size_in_bytes
    + memory.output_size_in_bytes
    + 2 * memory.temp_size_in_bytes,
    "reason": None,
  }


def _wanted_bytes(message: str, resident_bytes: int) -> int:
  """Returns the bytes a device would need, from the compiler's error.

  The error states either the program's total or its temporaries alone, to which
  the state and the batch are added.
  """
  used = re.search(r"Used ([\d.]+)([KMGT]?) of", message)
  if used:
    return int(float(used[1]) * _UNITS[used[2]])
  temporary = re.search(r"temporaries \(([\d.]+)([KMGT]?)\)", message)
  if temporary:
    return int(float(temporary[1]) * _UNITS[temporary[2]]) + resident_bytes
  raise ValueError(
    f"The compiler ran out of memory without stating its need:\n{message}"
  )


def _roofline(document, chip, moved) -> dict:
  """Computes the seconds of a step at peak rates, and its bottleneck.

  A lower bound: computation, memory and both networks overlap perfectly, and
  traffic of one of two devices of a chip goes to the other one or represents
  both, so that it has all links of the chip.

  Args:
    document: result of compile_step, with the collectives of one device.
    moved: bytes that a device reads and writes; None if unknown.
  """
  sent = {
    network: sum(
      row["sent_bytes"]
      for row in document["collectives"]
      if row["network"] == network
    )
    for network in (hlo.ICI, hlo.DCN)
  }
  seconds = {
    "compute": document["flops_per_step"]
    / document["num_chips"]
    / chip.flops_per_sec,
    "memory": chip.num_devices * (moved or 0) / chip.hbm_bytes_per_sec,
    hlo.ICI: sent[hlo.ICI] / chip.ici_bytes_per_sec,
    hlo.DCN: chip.num_devices * sent[hlo.DCN] / chip.dcn_bytes_per_sec,
  }
  bound = max(seconds, key=seconds.__getitem__)
  return {
    "roofline_step_sec": seconds[bound] if moved is not None else None,
    "roofline_bound": bound if moved is not None else None,
    "roofline": seconds if moved is not None else None,
    "peaks": {
      "flops_per_sec": chip.flops_per_sec,
      "hbm_bytes_per_sec": chip.hbm_bytes_per_sec,
      "ici_bytes_per_sec": chip.ici_bytes_per_sec,
      "dcn_bytes_per_sec": chip.dcn_bytes_per_sec,
    },
  }
