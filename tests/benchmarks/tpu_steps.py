"""Compares train steps with those of peers by the TPU compiler's figures.

  python -m tests.benchmarks.tpu_steps [--quick] [--only WORD] --json OUT

Steps of both towers in bfloat16, for one chip of a v5e and for four: ours, of
the config `pretrain_activitynet`, and the same work as peers write it
(tpu_steps_peers.py). Nothing runs, so no TPU is needed, only libtpu.

1. Peak memory per chip, as the compiler states it.
2. Bytes that the program moves to and from memory, and the share of them that
   pads arrays to the chip's tiles (hlo_bytes.py).
3. Operations as the step is written, recomputation included.
4. Milliseconds: the cycles that the compiler estimates for each instruction,
   one after the other at 1.5 GHz. They order programs and measure nothing.

R(2+1)D has channels that tiles of 128 do not divide; its rows state what
padding adds to arrays with these channels, and operations over those that
convolutions and products need at the least.
"""

import functools
import os
from typing import Any, NamedTuple

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from clap_jax.models import partitioning, variants
from clap_jax.trainers import abstract, pretrain, registry
from clap_jax.training import compile_ahead, flops, topology
from configs import pretrain_activitynet
from tests.benchmarks import contrastive_peers, hlo_bytes, running
from tests.benchmarks import tpu_steps_peers as peers

MEMORY_GOAL, BYTES_GOAL, OPERATIONS_GOAL = 0.8, 0.9, 1.15
CYCLES_PER_SEC = 197e12 / (4 * 2 * 128**2)  # four units of 128 x 128 per chip
MIB, GIB = 2**20, 2**30
CHANNELS = (45, 144, 230, 460, 921)  # inner widths of R(2+1)D


class Case(NamedTuple):
  """One video tower of ours and a batch, with the peers nearest to its work."""

  tower: str
  peers: tuple[str, ...]
  clips_per_chip: int
  image_size: int
  overrides: dict[str, Any]
  chips: str = "1x1"

  @property
  def is_convolution(self) -> bool:
    return self.tower in variants.R2PLUS1D_SIZES

  def __str__(self):
    return f"{self.tower}/{self.chips}"


_KEPT = {"model.remat_policy": "products"}  # convolutions are not recomputed
_ViT = functools.partial(Case, clips_per_chip=8, image_size=224)
FULL = (
  _ViT("transformer", ("scenic_blocks",), overrides={}),
  _ViT("videomae", ("big_vision",), overrides={}),
  # The peer does less: over time it reads the class tokens alone.
  _ViT("videoprism", ("scenic_encoder",), overrides={}),
  Case("r2plus1d_34", ("r2plus1d",), 32, 112, _KEPT),
  _ViT("transformer", ("scenic_blocks",), overrides={}, chips="2x2"),
)
_SMALL = {"model.video_size": "tiny", "model.text_size": "micro"}
QUICK = (
  Case("transformer", ("scenic_blocks",), 2, 32, _SMALL),
  Case("videomae", ("big_vision",), 2, 32, _SMALL),
  Case("r2plus1d_micro", ("r2plus1d",), 2, 32, _SMALL | _KEPT),
)


class Cost(NamedTuple):
  """Resources of one step on one chip; None where it does not fit."""

  operations: int
  peak_bytes: int | None = None
  traffic: hlo_bytes.Traffic | None = None


def config_of(case: Case, num_chips: int) -> pretrain.PretrainConfig:
  config = pretrain_activitynet.get_config("transformer").unlock()
  gain = config.model.motion_gain if case.tower == "transformer" else 0.0
  config.update_from_flattened_dict(
    {
      "model.video_tower": case.tower,
      "model.motion_gain": gain,
      "model.text_size": "B",
      "clip.image_size": case.image_size,
      "data.batch_size": case.clips_per_chip * num_chips,
      **case.overrides,
    }
  )
  return registry.resolve(config)


def trace_ours(config: pretrain.PretrainConfig, devices):
  run = pretrain.abstract_run(config, abstract.DataFacts())
  step = compile_ahead.trace_step(
    run.task,
    run.batch,
    devices=devices,
    config=config,
    sharding_rules=partitioning.PARAMETER_AXES,
  )
  return step.traced, step.mesh


def trace_peer(name: str, config: pretrain.PretrainConfig, devices):
  model, clip = config.model, config.clip
  dtype = jnp.dtype(model.dtype)
  if name == "r2plus1d":
    size = variants.R2PLUS1D_SIZES[model.video_tower]
    video = peers.R2Plus1D(size, dtype)
  else:
    size = variants.VIDEO_SIZES[model.video_size]
    make = {
      "big_vision": peers.BigVisionViT,
      "scenic_blocks": peers.ScenicViViT,
      "scenic_encoder": functools.partial(
        peers.ScenicViViT, factorised="encoder"
      ),
    }[name]
    video = make(size, model.patch, dtype)
  towers = peers.DualEncoder(
    video,
    variants.TEXT_SIZES[model.text_size],
    abstract.DataFacts().vocab_size,
    model.projection_width,
    dtype,
  )
  mesh = Mesh(np.array(devices), (contrastive_peers.AXIS,))
  batch, side = config.data.batch_size, clip.image_size
  clips = (batch, clip.num_frames, side, side, 3)
  traced = peers.trace_step(
    towers,
    jax.ShapeDtypeStruct(clips, jnp.float32),
    jax.ShapeDtypeStruct((batch, model.max_text_length), jnp.int32),
    mesh=mesh,
  )
  return traced, mesh


def cost_of(traced, mesh) -> Cost:
  operations = flops.count(traced.jaxpr).flops // mesh.size
  try:
    with jax.set_mesh(mesh):
      compiled = traced.lower().compile()
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    return Cost(operations)
  peak = compiled.memory_analysis().peak_memory_in_bytes
  return Cost(operations, peak, hlo_bytes.measure(compiled.as_text()))


def rows_of(case: Case, costs: dict[str, Cost]) -> list[dict]:
  """Figures of each step, then ours over the best peer's."""
  rows = []
  for name, cost in costs.items():
    title = f"{case}/{name}"
    rows.append(
      running.row(f"{title}/operations", cost.operations / 1e12, "Tflop")
    )
    if cost.traffic is None:
      note = "does not fit"
      rows.append(running.row(f"{title}/peak", None, "MiB", note=note))
      continue
    moved, exact, cycles = cost.traffic[:3]
    rows += [
      running.row(f"{title}/peak", cost.peak_bytes / MIB, "MiB"),
      running.row(f"{title}/bytes", moved / GIB, "GiB"),
      running.row(f"{title}/bytes_over_exact", moved / exact, "ratio"),
      running.row(f"{title}/estimate", 1e3 * cycles / CYCLES_PER_SEC, "ms"),
    ]
    for side in CHANNELS if case.is_convolution else ():
      moved, exact = cost.traffic.by_side.get(side, (0, 0))
      if exact:
        rows.append(
          running.row(f"{title}/padding/{side}", moved / exact, "ratio")
        )
  return rows + ratios_of(case, costs)


def ratios_of(case: Case, costs: dict[str, Cost]) -> list[dict]:
  ours = costs["ours"]
  fitting = [costs[name] for name in case.peers if costs[name].traffic]
  if ours.traffic is None or not fitting:
    return []
  goals = case.image_size == FULL[0].image_size
  peak = ours.peak_bytes / min(cost.peak_bytes for cost in fitting)
  moved = ours.traffic.moved / min(cost.traffic.moved for cost in fitting)
  return [
    running.row(
      f"{case}/{name}/ours_over_best_peer",
      ratio,
      "ratio",
      at_most=goal if goals else None,
    )
    for name, ratio, goal in (
      ("peak", peak, MEMORY_GOAL),
      ("bytes", moved, BYTES_GOAL),
    )
  ]


def recomputation_row(case: Case, operations: int, devices) -> dict:
  """Operations of our step over those of it without recomputation."""
  plain = case._replace(overrides={**case.overrides, "model.remat": False})
  traced, mesh = trace_ours(config_of(plain, len(devices)), devices)
  exact = flops.count(traced.jaxpr).flops // mesh.size
  title = f"{case}/operations/ours_over_exact"
  return running.row(
    title, operations / exact, "ratio", at_most=OPERATIONS_GOAL
  )


def measure(*, quick: bool, only: str) -> list[dict]:
  if topology.library_path() is None:
    note = "skipped: no libtpu installed"
    return [running.row("tpu_steps", None, "MiB", note=note)]
  rows = []
  for case in QUICK if quick else FULL:
    if only not in str(case):
      continue
    devices = topology.describe(f"v5e:{case.chips}").devices
    config = config_of(case, len(devices))
    costs = {"ours": cost_of(*trace_ours(config, devices))}
    for name in case.peers:
      costs[name] = cost_of(*trace_peer(name, config, devices))
    rows += rows_of(case, costs)
    if case.is_convolution:
      rows.append(recomputation_row(case, costs["ours"].operations, devices))
  return rows


if __name__ == "__main__":
  only = {"default": "", "help": "cases whose name contains this"}
  running.main(measure, __doc__, options={"only": only})
