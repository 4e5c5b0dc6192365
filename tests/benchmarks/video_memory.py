"""Memory of training on long videos, as the TPU compiler states it.

  python -m tests.benchmarks.video_memory [--quick] --json OUT

1. Peak memory of value and gradient on one v5e chip for videos of up to 1,536
   frames at 224 x 224 pixels, ViT-B and ViT-L over clips of 16 frames, bfloat16
   with float32 parameters, under a head that couples all clips: all clips at
   once, with each block recomputed, and clip by clip (models/long_video.py).
   Optimizer state is not included. Needs libtpu and no TPU.
2. Time of a step clip by clip over one of all clips at once, on this CPU, in
   turns; each encoder recomputes nothing by itself, so that the ratio is the
   price of encoding every clip again.

`--quick` leaves out all but the rows that have a goal.
"""

import os
import statistics
import time
from typing import Any, NamedTuple

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from clap_jax.models import (
  long_video,
  variants,
  video_transformer,
)
from clap_jax.training import topology
from tests.benchmarks import running

MIB, GIB = 2**20, 2**30
CLIP = (16, 224, 224, 3)
FRAMES = (16, 96, 384, 768, 1536)
PEAK_GOAL_GIB, SLOPE_GOAL_MIB, TIME_GOAL = 1.6, 0.2, 1.4


class Way(NamedTuple):
  """How the clips of a video are encoded."""

  name: str
  remat: bool  # each block is recomputed
  scanned: bool  # clip by clip


AT_ONCE = Way("at_once", remat=False, scanned=False)
BLOCKS = Way("blocks_recomputed", remat=True, scanned=False)
SCANNED = Way("clip_by_clip", remat=True, scanned=True)


def step_of(tower, *, scanned: bool, kernel_dtype: Any):
  """(params, clips) -> loss and gradient, every clip coupled to every other."""

  def features_of(params, clips):
    if scanned:
      return long_video.encode_clips(
        params, clips, encode=tower.apply, kernel_dtype=kernel_dtype
      )
    flat = tower.apply(params, clips.reshape(-1, *clips.shape[2:]))
    return flat.reshape(*clips.shape[:2], -1)

  def loss(params, clips):
    features = features_of(params, clips)
    similarity = jnp.einsum("bnd,bmd->bnm", features, features)
    weight = jax.nn.softmax(similarity / features.shape[-1])
    return jnp.mean(jnp.square(weight @ features))

  return jax.value_and_grad(loss)


def peak_bytes(size: str, way: Way, num_frames: int, mesh: Mesh):
  """Peak bytes of one chip, or None and the compiler's complaint."""
  tower = video_transformer.VideoTransformer(
    variants.VIDEO_SIZES[size],
    patch=(2, 16, 16),
    remat=way.remat,
    dtype=jnp.bfloat16,
  )
  here = NamedSharding(mesh, PartitionSpec())

  def shaped(shape, dtype):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=here)

  shapes = jax.eval_shape(
    lambda: tower.init(jax.random.key(0), jnp.zeros((1, *CLIP), jnp.uint8))
  )
  params = jax.tree.map(lambda leaf: shaped(leaf.shape, leaf.dtype), shapes)
  clips = shaped((1, num_frames // CLIP[0], *CLIP), jnp.uint8)
  step = step_of(tower, scanned=way.scanned, kernel_dtype=jnp.bfloat16)
  try:
    compiled = jax.jit(step).lower(params, clips).compile()
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    return None, " ".join(str(error).split())[:200]
  return compiled.memory_analysis().peak_memory_in_bytes, None


def memory_rows(quick: bool):
  if topology.library_path() is None:
    note = "skipped: no libtpu installed"
    return [running.row("tpu_peak/v5e", None, "GiB per chip", note=note)]
  devices = topology.describe("v5e:1x1").devices
  mesh = Mesh(np.array(devices), ("data",))
  cases = [("B", SCANNED, n) for n in FRAMES[3:]]
  if not quick:
    cases = [
      (size, way, n)
      for size in ("B", "L")
      for way in (AT_ONCE, BLOCKS, SCANNED)
      for n in FRAMES
    ]
  rows, peaks = [], {}
  for size, way, num_frames in cases:
    peak, note = peak_bytes(size, way, num_frames, mesh)
    peaks[size, way.name, num_frames] = peak
    is_goal = (size, way, num_frames) == ("B", SCANNED, FRAMES[-1])
    title = f"tpu_peak/v5e/ViT-{size}/{way.name}/{num_frames}_frames"
    value = None if peak is None else peak / GIB
    goal = PEAK_GOAL_GIB if is_goal else None
    rows.append(
      running.row(title, value, "GiB per chip", at_most=goal, note=note)
    )
    print(rows[-1], flush=True)
  few, many = (peaks["B", SCANNED.name, n] for n in FRAMES[3:])
  slope = (many - few) / MIB / (FRAMES[4] - FRAMES[3])
  title = "tpu_peak/v5e/ViT-B/clip_by_clip/per_further_frame"
  return [
    *rows,
    running.row(title, slope, "MiB per frame", at_most=SLOPE_GOAL_MIB),
  ]


def time_rows(rounds: int):
  """Medians of steps in turns, on this CPU."""
  tower = video_transformer.VideoTransformer(
    variants.VIDEO_SIZES["tiny"], patch=(4, 16, 16)
  )
  rng = np.random.default_rng(0)
  clips = rng.integers(0, 255, (1, 16, 16, 64, 64, 3), np.uint8)
  params = tower.init(jax.random.key(0), clips[0])
  steps = {
    scanned: jax.jit(step_of(tower, scanned=scanned, kernel_dtype=None))
    for scanned in (False, True)
  }
  seconds: dict[bool, list[float]] = {False: [], True: []}
  for turn in range(rounds + 1):
    for scanned, step in steps.items():
      start = time.perf_counter()
      jax.block_until_ready(step(params, clips))
      if turn:  # the first one compiles
        seconds[scanned].append(time.perf_counter() - start)
  ratio = statistics.median(seconds[True]) / statistics.median(seconds[False])
  return [
    running.row(
      "time/clip_by_clip_over_at_once", ratio, "ratio", at_most=TIME_GOAL
    )
  ]


def measure(*, quick: bool) -> list[dict]:
  return time_rows(rounds=11) + memory_rows(quick)


if __name__ == "__main__":
  running.main(measure, __doc__)
