"""Speed of the video towers against equal PyTorch modules.

  python -m tests.benchmarks.towers [--quick] [--one_thread] --json OUT

Forward and backward pass of one batch in float32, in one process, in turns:

1. achieved operations per second over those of a plain matrix product here;
2. seconds over those of a PyTorch module with the same blocks, widths and
   parameters (skipped without torch): a transformer with PyTorch's own
   scaled_dot_product_attention, or R(2+1)D in training, with batch statistics;
3. beside it the same ratio of the plain matrix product, XLA's over PyTorch's: a
   tower that were nothing but products could not come below it.

Operations are those of products and convolutions without any recomputation.
Ratios of medians hold on a busy machine too, seconds do not. Where others keep
all cores busy, threads wait for one another and even ratios mean nothing:
--one_thread measures the processor time of a single thread on both sides.
"""

import importlib.util
import os
import statistics
import time
from typing import NamedTuple

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np

from clap_jax.models import dual_encoder, variants
from clap_jax.training import flops
from tests.benchmarks import running

PEAK_GOAL, TORCH_GOAL = 0.6, 1.0
PATCH = (2, 16, 16)


class Case(NamedTuple):
  """A tower and a batch."""

  size: str  # of the transformer, or an R(2+1)D tower
  clips: int
  num_frames: int
  image_size: int

  @property
  def is_transformer(self) -> bool:
    return self.size in variants.VIDEO_SIZES

  def __str__(self):
    name = f"ViT-{self.size}" if self.is_transformer else self.size
    return f"{name}/{self.clips}x{self.num_frames}x{self.image_size}px"


QUICK = (
  Case("tiny", clips=4, num_frames=8, image_size=64),
  Case("r2plus1d_micro", clips=4, num_frames=8, image_size=64),
)
FULL = (
  Case("S", clips=4, num_frames=16, image_size=112),
  Case("B", clips=2, num_frames=16, image_size=112),
  Case("r2plus1d_18", clips=2, num_frames=16, image_size=112),
)


def clips_of(case: Case) -> np.ndarray:
  side = case.image_size
  shape = (case.clips, case.num_frames, side, side, 3)
  return np.random.default_rng(0).integers(0, 255, shape, np.uint8)


def jax_step(case: Case, *, remat: bool):
  """(step, operations): step() runs one forward and backward pass."""
  config = dual_encoder.DualEncoderConfig(
    video_tower="transformer" if case.is_transformer else case.size,
    video_size=case.size if case.is_transformer else "micro",
    text_size="micro",
    motion_gain=1.0 if case.is_transformer else 0.0,
    num_frames=case.num_frames,
    image_size=case.image_size,
    patch=PATCH,
    vocab_size=8,
    max_text_length=2,
    projection_width=8,
    num_classes=0,
    remat=remat,
  )
  model = dual_encoder.DualEncoder(config)
  clips = jnp.asarray(clips_of(case))

  init = jax.jit(lambda key: model.init(key, clips, method="video_feature"))
  variables = init(jax.random.key(0))
  params = variables.pop("params")

  def loss(params, variables, clips):
    feature, renewed = model.apply(
      variables | {"params": params},
      clips,
      train=True,
      method="video_feature",
      mutable=list(variables),
    )
    return jnp.mean(jnp.square(feature)), renewed

  gradient = jax.jit(jax.grad(loss, has_aux=True))
  arguments = (params, variables, clips)
  count = flops.count(jax.make_jaxpr(gradient)(*arguments))
  return lambda: jax.block_until_ready(gradient(*arguments)), count.flops


def torch_step(case: Case):
  """The same with PyTorch; its own initial parameters, which cost the same."""
  import torch  # noqa: PLC0415  (an optional package)

  torch.manual_seed(0)
  clips = torch.from_numpy(clips_of(case))
  tower = (torch_transformer if case.is_transformer else torch_r2plus1d)(case)

  def step():
    tower.zero_grad(set_to_none=True)
    tower(clips).square().mean().backward()

  return step


def torch_r2plus1d(case: Case):
  import torch  # noqa: PLC0415

  from tests.interchange import torch_modules  # noqa: PLC0415

  class Tower(torch.nn.Module):
    def __init__(self):
      super().__init__()
      size = variants.R2PLUS1D_SIZES[case.size]
      self.network = torch_modules.VideoResNet(size)

    def forward(self, frames):
      x = frames.float().permute(0, 4, 1, 2, 3) / 127.5 - 1.0
      return self.network(x)["feature"]

  return Tower().train()


def torch_transformer(case: Case):
  import torch  # noqa: PLC0415
  from torch import nn  # noqa: PLC0415

  size = variants.VIDEO_SIZES[case.size]

  class Attention(nn.Module):
    def __init__(self):
      super().__init__()
      self.q, self.k, self.v, self.out = (
        nn.Linear(size.width, size.width) for _ in range(4)
      )

    def forward(self, query, x):
      def heads(y):
        return y.unflatten(-1, (size.num_heads, -1)).transpose(-2, -3)

      y = nn.functional.scaled_dot_product_attention(
        heads(self.q(query)), heads(self.k(x)), heads(self.v(x))
      )
      return self.out(y.transpose(-2, -3).flatten(-2))

  class Block(nn.Module):
    def __init__(self):
      super().__init__()
      self.norms = nn.ModuleList(nn.LayerNorm(size.width) for _ in range(3))
      self.space, self.time = Attention(), Attention()
      self.mlp = nn.Sequential(
        nn.Linear(size.width, size.mlp_width),
        nn.GELU(approximate="tanh"),
        nn.Linear(size.mlp_width, size.width),
      )

    def forward(self, x):  # (b, t, s, d)
      y = self.norms[0](x)
      x = x + self.space(y, y)
      y = self.norms[1](x).transpose(1, 2)
      x = x + self.time(y, y).transpose(1, 2)
      return x + self.mlp(self.norms[2](x))

  class Tower(nn.Module):
    def __init__(self):
      super().__init__()
      frames, height, width = PATCH
      self.embed = nn.Linear(frames * height * width * 3, size.width)
      self.times = case.num_frames // frames
      self.side = case.image_size // height
      shape = (self.times, self.side**2, size.width)
      self.positions = nn.Parameter(0.02 * torch.randn(shape))
      self.blocks = nn.ModuleList(Block() for _ in range(size.depth))
      self.norm = nn.LayerNorm(size.width)
      self.pool = Attention()
      self.query = nn.Parameter(0.02 * torch.randn(1, 1, size.width))

    def forward(self, frames):
      x = frames.float() / 127.5 - 1.0
      t, side = self.times, self.side
      x = x.reshape(-1, t, PATCH[0], side, PATCH[1], side, PATCH[2], 3)
      x = x.permute(0, 1, 3, 5, 2, 4, 6, 7).reshape(-1, t, side * side, 1536)
      x = self.embed(x) + self.positions
      for block in self.blocks:
        x = block(x)
      x = self.norm(x).flatten(1, 2)
      pooled = self.pool(self.query.expand(x.shape[0], 1, -1), x)
      return pooled[:, 0] + x.mean(dim=1)

  return Tower()


def product_step(side: int, repeats: int = 8):
  """(step, operations) of square matrix products.

  Several, since memory that the step before has left is given back meanwhile.
  """
  rng = np.random.default_rng(0)
  a, b = jnp.asarray(rng.normal(size=(2, side, side)), jnp.float32)
  product = jax.jit(jnp.matmul)

  def step():
    for _ in range(repeats):
      jax.block_until_ready(product(a, b))

  return step, repeats * 2 * side**3


def torch_product_step(side: int, repeats: int = 8):
  """The same with PyTorch."""
  import torch  # noqa: PLC0415

  torch.manual_seed(0)
  a, b = torch.randn(2, side, side)

  def step():
    for _ in range(repeats):
      a @ b

  return step


def seconds_in_turns(steps, rounds: int, clock):
  """All times of each step but its first, which compiles."""
  seconds = {name: [] for name in steps}
  for turn in range(rounds + 1):
    for name, step in steps.items():
      start = clock()
      step()
      if turn:
        seconds[name].append(clock() - start)
  return seconds


def case_rows(case: Case, rounds: int, clock):
  plain, operations = jax_step(case, remat=False)
  product, product_operations = product_step(1024)
  steps = {
    "plain": plain,
    "remat": jax_step(case, remat=True)[0],
    "product": product,
  }
  has_torch = importlib.util.find_spec("torch") is not None
  if has_torch:
    steps["torch"] = torch_step(case)
    steps["torch_product"] = torch_product_step(1024)
  times = seconds_in_turns(steps, rounds, clock)
  median = {name: statistics.median(values) for name, values in times.items()}
  # The peak is the best product; the step's own time is its median.
  peak = product_operations / min(times["product"])
  best = min(median["plain"], median["remat"])
  rows = [
    running.row(f"{case}/product", peak / 1e9, "GFLOP/s"),
    running.row(f"{case}/achieved", operations / best / 1e9, "GFLOP/s"),
    running.row(
      f"{case}/achieved_over_product",
      operations / best / peak,
      "ratio",
      at_least=PEAK_GOAL if case.is_transformer else None,
    ),
    running.row(
      f"{case}/time/remat_over_plain",
      median["remat"] / median["plain"],
      "ratio",
    ),
  ]
  title = f"{case}/time/ours_over_torch"
  if not has_torch:
    note = "skipped: torch not installed"
    return [*rows, running.row(title, None, "ratio", note=note)]
  products = min(times["product"]) / min(times["torch_product"])
  return [
    *rows,
    running.row(title, best / median["torch"], "ratio", at_most=TORCH_GOAL),
    running.row(f"{case}/product/ours_over_torch", products, "ratio"),
  ]


def measure(*, quick: bool, one_thread: bool) -> list[dict]:
  cases, rounds = (QUICK, 5) if quick else (FULL, 7)
  clock = time.perf_counter
  if one_thread:
    keep_to_one_thread()
    clock = time.process_time
  return [row for case in cases for row in case_rows(case, rounds, clock)]


def keep_to_one_thread() -> None:
  """Before the first computation: XLA counts the cores that it may use."""
  os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
  if importlib.util.find_spec("torch") is not None:
    import torch  # noqa: PLC0415  (an optional package)

    torch.set_num_threads(1)


if __name__ == "__main__":
  flag = {"action": "store_true", "help": "processor time of one thread"}
  running.main(measure, __doc__, options={"one_thread": flag})
