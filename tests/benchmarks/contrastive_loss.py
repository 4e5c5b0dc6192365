"""Time and memory of the contrastive loss against its peers' algorithms.

  python -m tests.benchmarks.contrastive_loss [--quick] --json OUT

1. Interleaved times of value and gradient on 1 and 8 simulated devices, as
   ratios of medians (below 1: ours is faster), and compiled temporary bytes.
2. With libtpu at hand (`pip install libtpu`, or TPU_LIBRARY_PATH), what the TPU
   compiler needs per chip of a v5e:16x16. No TPU is needed.
3. With torch and open_clip installed, the same against open_clip's own losses.

What cannot run is listed as skipped, with `ok` null. All peers are unmasked, so
ours runs with the rules `unmasked` unless a row says otherwise.
"""

import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from typing import NamedTuple

# The device count must be set before jax starts.
_FLAG = "--xla_force_host_platform_device_count=8"
if "xla_force_host_platform_device_count" not in os.environ.get(
  "XLA_FLAGS", ""
):
  os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_FLAG}"
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from jax.experimental import topologies  # noqa: E402
from jax.sharding import (  # noqa: E402
  AxisType,
  Mesh,
  NamedSharding,
  PartitionSpec,
)

from clap_jax.losses import contrastive, contrastive_sharded  # noqa: E402
from clap_jax.training import topology  # noqa: E402
from clap_jax.types import PairMetadata  # noqa: E402
from tests.benchmarks import contrastive_peers as peers  # noqa: E402
from tests.benchmarks import running  # noqa: E402

SCALE = 50.0
FULL_BATCH = 8192
MIB = 2**20
TPU_TOPOLOGY, TPU_WIDTH = "v5e:16x16", 512
TPU_BATCHES = {"64k": 2**16, "256k": 2**18, "1m": 2**20, "4m": 2**22}
TPU_GOALS_MIB = {"1m": 100, "4m": 280}
_CHILD_FLAG = "--tpu_batches"  # the figures of this, in a process of its own
TIME_GOALS = {"open_clip_form": 0.6, "inf_cl_form": 0.45, "dense": 1.1}


def distinct_pairs(batch, make=np.asarray):
  """Metadata under which every preset has something to look at."""
  rng = np.random.default_rng(0)
  is_action = rng.random(batch) < 0.5
  start = rng.uniform(0, 60, batch).astype(np.float32)
  caption = rng.uniform(0, 60, batch).astype(np.float32)
  pairs = PairMetadata(
    text_id=rng.integers(0, batch, batch).astype(np.int32),
    class_id=np.where(is_action, rng.integers(0, 200, batch), -1).astype(
      np.int32
    ),
    video_id=rng.integers(0, batch // 4, batch).astype(np.int32),
    clip_start_sec=start,
    clip_end_sec=start + 1,
    caption_start_sec=caption,
    caption_end_sec=caption + 20,
    is_action=is_action,
    has_text=np.ones(batch, bool),
    generic_text=~is_action,
    valid=np.ones(batch, bool),
    action_share=is_action.astype(np.float32),
  )
  return PairMetadata(*map(make, pairs))


def ours(pairs, *, preset="unmasked", **options):
  """(video, text, scale) -> value and gradients, by the package's loss."""

  def loss(video, text, scale):
    return contrastive_sharded.contrastive_loss(
      video,
      text,
      pairs,
      scale,
      rules=contrastive.PRESETS[preset],
      axis_names=(peers.AXIS,),
      **options,
    )[0]

  return jax.value_and_grad(loss, argnums=(0, 1, 2))


def contenders(pairs, devices, tile_size):
  return {
    "ring": ours(pairs, implementation="ring", tile_size=tile_size),
    "open_clip_form": peers.open_clip_form(),
    "inf_cl_form": peers.inf_cl_form(devices, tile_size),
    "dense": ours(pairs, implementation="dense"),
    "tiled": ours(pairs, implementation="tiled", tile_size=tile_size),
    "gathered": ours(pairs, implementation="gathered"),
    "ring_captions": ours(
      pairs, preset="captions", implementation="ring", tile_size=tile_size
    ),
    "dense_captions": ours(pairs, preset="captions", implementation="dense"),
    "ring_sigmoid": ours(
      pairs,
      objective="sigmoid",
      logit_bias=-10.0,
      implementation="ring",
      tile_size=tile_size,
    ),
    "sigmoid_form": peers.sigmoid_form(),
  }


def interleaved_seconds(functions, arguments, rounds):
  """Median seconds of each function; one warm-up, then in turns."""
  seconds = {name: [] for name in functions}
  for turn in range(rounds + 1):
    for name, function in functions.items():
      start = time.perf_counter()
      jax.block_until_ready(function(*arguments))
      if turn:
        seconds[name].append(time.perf_counter() - start)
  return {name: statistics.median(values) for name, values in seconds.items()}


def unit_rows(rng, batch, width):
  x = rng.normal(size=(batch, width)).astype(np.float32)
  return x / np.linalg.norm(x, axis=1, keepdims=True)


class Setting(NamedTuple):
  """One place and size of the measurements on simulated devices."""

  devices: int
  batch: int
  width: int
  tile_size: int = 512

  def __str__(self):
    return f"{self.devices}_devices/b{self.batch}/d{self.width}"


def measure_setting(setting, names, rounds):
  """Median seconds and temporary MiB of the named contenders."""
  mesh = jax.make_mesh(
    (setting.devices,),
    (peers.AXIS,),
    axis_types=(AxisType.Auto,),
    devices=jax.devices()[: setting.devices],
  )
  by_batch = NamedSharding(mesh, PartitionSpec(peers.AXIS))
  rng = np.random.default_rng(1)
  sides = [unit_rows(rng, setting.batch, setting.width) for _ in range(2)]
  scale = jax.device_put(
    jnp.float32(SCALE), NamedSharding(mesh, PartitionSpec())
  )
  arguments = (*jax.device_put(sides, by_batch), scale)
  pairs = jax.device_put(distinct_pairs(setting.batch), by_batch)
  functions = contenders(pairs, setting.devices, setting.tile_size)
  with jax.set_mesh(mesh):
    compiled = {
      name: jax.jit(functions[name]).lower(*arguments).compile()
      for name in names
    }
    losses = {name: float(f(*arguments)[0]) for name, f in compiled.items()}
    for name in set(names) & set(TIME_GOALS):
      assert abs(losses[name] - losses["ring"]) < 1e-4 * losses["ring"], losses
    seconds = interleaved_seconds(compiled, arguments, rounds)
  temp = {
    name: function.memory_analysis().temp_size_in_bytes / MIB
    for name, function in compiled.items()
  }
  return seconds, temp


def simulated_rows(setting, rounds):
  """Ours against the peers; goals hold at the full size only."""
  full = setting.batch >= FULL_BATCH
  seconds, temp = measure_setting(setting, ("ring", *TIME_GOALS), rounds)
  rows = []
  for name, goal in TIME_GOALS.items():
    ratio = seconds["ring"] / seconds[name]
    title = f"time/ring_over_{name}/{setting}"
    rows.append(
      running.row(title, ratio, "ratio", at_most=goal if full else None)
    )
  return rows + [
    running.row(f"temp/{n}/{setting}", x, "MiB") for n, x in temp.items()
  ]


def variant_rows(setting, rounds):
  """Our own implementations, masks and objectives against one another."""
  full = setting.batch >= FULL_BATCH
  pairs = (
    ("ring_captions", "dense_captions", TIME_GOALS["dense"] if full else None),
    ("ring_captions", "ring", None),
    ("tiled", "ring", None),
    ("gathered", "ring", None),
    ("ring_sigmoid", "sigmoid_form", None),
  )
  names = {name for over, under, _ in pairs for name in (over, under)}
  seconds, temp = measure_setting(setting, sorted(names), rounds)
  rows = [
    running.row(
      f"time/{over}_over_{under}/{setting}",
      seconds[over] / seconds[under],
      "ratio",
      at_most=goal,
    )
    for over, under, goal in pairs
  ]
  rows += [
    running.row(f"temp/{n}/{setting}", x, "MiB") for n, x in temp.items()
  ]
  ratio = temp["ring_sigmoid"] / temp["sigmoid_form"]
  title = f"temp/ring_sigmoid_over_sigmoid_form/{setting}"
  return [
    *rows,
    running.row(title, ratio, "ratio", at_most=0.05 if full else None),
  ]


def tpu_mib(name, batch, mesh):
  """(peak, HBM alone) in MiB per chip, or why there are none.

  The compiler's peak counts arrays in the chip's own vector memory, too.
  """
  by_batch = NamedSharding(mesh, PartitionSpec(peers.AXIS))

  def shaped(*shape, dtype=jnp.float32, sharding=by_batch):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

  pairs = distinct_pairs(64, lambda leaf: shaped(batch, dtype=leaf.dtype))
  sides = shaped(batch, TPU_WIDTH), shaped(batch, TPU_WIDTH)
  scale = shaped(sharding=NamedSharding(mesh, PartitionSpec()))

  def function(video, text, scale, pairs):
    make = {
      "ring": lambda: ours(pairs, implementation="ring"),
      "ring_captions": lambda: ours(
        pairs, preset="captions", implementation="ring"
      ),
      "ring_sigmoid": lambda: ours(
        pairs, objective="sigmoid", implementation="ring"
      ),
      "open_clip_form": peers.open_clip_form,
      "inf_cl_form": lambda: peers.inf_cl_form(mesh.size, 512),
    }
    return make[name]()(video, text, scale)

  try:
    with jax.set_mesh(mesh):
      lowered = jax.jit(function).lower(*sides, scale, pairs)
      memory = lowered.compile().memory_analysis()
  except jax.errors.JaxRuntimeError as error:
    return (None, None), " ".join(str(error).split())[:300]
  in_hbm = (
    memory.argument_size_in_bytes
    + memory.output_size_in_bytes
    + memory.temp_size_in_bytes
  )
  return (memory.peak_memory_in_bytes / MIB, in_hbm / MIB), None


def tpu_rows(batches):
  """Run in a process of its own, whose environment names the TPU library."""
  chips = topologies.get_topology_desc(
    platform="tpu", topology_name=TPU_TOPOLOGY
  )
  mesh = Mesh(np.array(chips.devices), (peers.AXIS,))
  names = (
    "ring",
    "ring_captions",
    "ring_sigmoid",
    "open_clip_form",
    "inf_cl_form",
  )
  rows, peaks, hbm = [], {}, {}
  for label in batches:
    for name in names:
      (peak, in_hbm), note = tpu_mib(name, TPU_BATCHES[label], mesh)
      peaks[name, label], hbm[name, label] = peak, in_hbm
      goal = TPU_GOALS_MIB.get(label) if name == "ring" else None
      where = f"{TPU_TOPOLOGY}/{name}/b{label}/d{TPU_WIDTH}"
      rows += [
        running.row(
          f"tpu_peak/{where}", peak, "MiB per chip", at_most=goal, note=note
        ),
        running.row(f"tpu_hbm/{where}", in_hbm, "MiB per chip", note=note),
      ]
    for kind, sizes, goal in (
      ("tpu_peak", peaks, 0.7 if label == "4m" else 0.85),
      ("tpu_hbm", hbm, 1.0),
    ):
      if sizes["inf_cl_form", label]:
        ratio = sizes["ring", label] / sizes["inf_cl_form", label]
        title = f"{kind}/ring_over_inf_cl_form/b{label}"
        rows.append(running.row(title, ratio, "ratio", at_most=goal))
  if len(batches) > 2:
    sizes = [TPU_BATCHES[label] for label in batches]
    ours_mib = [peaks["ring", label] for label in batches]
    misfit = 1 - np.corrcoef(sizes, ours_mib)[0, 1] ** 2
    rows.append(
      running.row(
        "tpu_peak/ring/misfit_of_a_line", misfit, "1-R^2", at_most=1e-3
      )
    )
  return rows


def tpu_rows_in_child(batches):
  library = topology.library_path()
  if library is None:
    return [
      running.row(
        "tpu_peak", None, "MiB per chip", note="skipped: no libtpu installed"
      )
    ]
  environment = os.environ | {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_LIBRARY_PATH": library,
  }
  command = [sys.executable, "-m", "tests.benchmarks.contrastive_loss"]
  finished = subprocess.run(
    [*command, _CHILD_FLAG, ",".join(batches)],
    env=environment,
    capture_output=True,
    text=True,
    timeout=1800,
    check=False,
  )
  if finished.returncode:
    note = f"skipped: the TPU compiler failed: {finished.stderr[-300:]}"
    return [running.row("tpu_peak", None, "MiB per chip", note=note)]
  return json.loads(finished.stdout.splitlines()[-1])


def torch_rows(batch, width, rounds):
  """Ours on one device against open_clip's own losses on the same arrays."""
  name = f"time/tiled_over_torch_open_clip/b{batch}/d{width}"
  missing = [
    package
    for package in ("torch", "open_clip")
    if importlib.util.find_spec(package) is None
  ]
  if missing:
    note = f"skipped: {' and '.join(missing)} not installed"
    return [running.row(name, None, "ratio", at_most=1.0, note=note)]
  import open_clip.loss  # noqa: PLC0415  (an optional package)
  import torch  # noqa: PLC0415

  rng = np.random.default_rng(1)
  arrays = [unit_rows(rng, batch, width) for _ in range(2)]

  def torch_function(loss, *more):
    def function(*_):
      sides = [torch.from_numpy(x).requires_grad_() for x in arrays]
      scale = torch.tensor(SCALE, requires_grad=True)
      loss(*sides, scale, *more).backward()

    return function

  options = {"implementation": "tiled"}
  softmax = ours(distinct_pairs(batch, jnp.asarray), **options)
  sigmoid = ours(
    distinct_pairs(batch, jnp.asarray),
    objective="sigmoid",
    logit_bias=-10.0,
    **options,
  )
  functions = {
    "softmax": jax.jit(softmax),
    "clip": torch_function(open_clip.loss.ClipLoss()),
    "sigmoid": jax.jit(sigmoid),
    "siglip": torch_function(
      open_clip.loss.SigLipLoss(), torch.tensor(-10.0, requires_grad=True)
    ),
  }
  arguments = (*map(jnp.asarray, arrays), jnp.float32(SCALE))
  seconds = interleaved_seconds(functions, arguments, rounds)
  ratios = (
    (name, seconds["softmax"] / seconds["clip"]),
    (name.replace("clip", "siglip"), seconds["sigmoid"] / seconds["siglip"]),
  )
  return [
    running.row(title, ratio, "ratio", at_most=1.0) for title, ratio in ratios
  ]


def measure(*, quick: bool) -> list[dict]:
  batch, rounds = (2048, 3) if quick else (FULL_BATCH, 5)
  widths = (256,) if quick else (256, 512)
  rows = []
  for width in widths:
    for devices in (1, 8):
      rows += simulated_rows(Setting(devices, batch, width), rounds)
    rows += torch_rows(batch, width, rounds)
  for devices in (1, 8):
    rows += variant_rows(Setting(devices, batch, widths[0]), 3)
  return rows + tpu_rows_in_child(["64k", "1m"] if quick else list(TPU_BATCHES))


if __name__ == "__main__":
  if sys.argv[1:2] == [_CHILD_FLAG]:
    print(json.dumps(tpu_rows(sys.argv[2].split(","))))
  else:
    running.main(measure, __doc__)
