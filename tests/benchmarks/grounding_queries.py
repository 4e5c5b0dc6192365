"""What queries and long videos cost: one encoding, any number of queries.

    python -m tests.benchmarks.grounding_queries --json OUT [--quick]

Both kinds of grounders at the demo's size with untrained parameters: the time
of 100 queries on one video over the time of one, encoding included; a one-hour
sequence of features at two per second (10 minutes with --quick) grounded, in
seconds and in MiB of resident memory beyond what was there before.
"""

import resource
import time

import jax
import numpy as np

from clap_jax.evaluation import moment_retrieval
from clap_jax.models import fusion, heads, localizer, pyramid, two_d_tan
from clap_jax.trainers import grounding, grounding_heads
from tests.benchmarks import running

FEATURE_WIDTH, NUM_TOKENS, QUERY_WIDTH = 192, 32, 96
STRIDE_SEC = 0.5
SHORT_SEC = 30.0


def make_search(kind: str):
  """(search, parameters) of an untrained grounder of the demo's size."""
  trunk = pyramid.PyramidConfig(
    width=64, block="conv", num_stem_convs=1, window_steps=7
  )
  facts = {
    "kind": kind,
    "feature_width": FEATURE_WIDTH,
    "query_length": NUM_TOKENS,
    "query_width": QUERY_WIDTH,
    "max_length": 64,
    "pyramid": vars(trunk),
    "fusion": vars(fusion.FusionConfig()),
    "head": vars(heads.HeadConfig(num_convs=1)),
    "map": vars(two_d_tan.TwoDTanConfig()),
    "decode": vars(localizer.DecodeConfig(num_kept=10, num_candidates=100)),
  }
  task = grounding.make_task(facts)
  params = jax.jit(task.init)(jax.random.key(0))
  return moment_retrieval.MomentSearch(task), params


def ground(search, params, *, duration_sec: float, num_queries: int) -> float:
  """Seconds to encode one video and to answer the queries on it."""
  rng = np.random.default_rng(0)
  steps = int(duration_sec / STRIDE_SEC)
  features = rng.normal(size=(steps, FEATURE_WIDTH)).astype(np.float32)
  query = rng.normal(size=(num_queries, NUM_TOKENS, QUERY_WIDTH))
  started_sec = time.perf_counter()
  encoded = search.encode(params, features)
  found = search.answer(
    params,
    encoded,
    query=query.astype(np.float32),
    query_mask=np.ones((num_queries, NUM_TOKENS), bool),
  )
  wall_sec = time.perf_counter() - started_sec
  ends = found.segments[found.mask]
  if not np.isfinite(ends).all() or ends.max() < 0.8 * steps:
    raise RuntimeError("the moments do not reach over the whole video")
  return wall_sec


def _peak_mib() -> float:
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(*, quick: bool) -> list[dict]:
  rows = []
  repeats = 3 if quick else 7
  hour_sec = 600.0 if quick else 3600.0
  for kind in grounding_heads.KINDS:
    search, params = make_search(kind)
    best = {}
    for count in (1, 100):
      times = [
        ground(search, params, duration_sec=SHORT_SEC, num_queries=count)
        for _ in range(repeats + 1)
      ]
      best[count] = min(times[1:])  # the first one compiles
    before = _peak_mib()
    first = ground(search, params, duration_sec=hour_sec, num_queries=1)
    again = ground(search, params, duration_sec=hour_sec, num_queries=1)
    rows += [
      running.row(f"{kind}: 1 query on {SHORT_SEC:g} s", best[1], "s"),
      running.row(f"{kind}: 100 queries on {SHORT_SEC:g} s", best[100], "s"),
      running.row(f"{kind}: time of 100 / time of 1", best[100] / best[1], "x"),
      running.row(f"{kind}: {hour_sec:g} s of video, compiling", first, "s"),
      running.row(f"{kind}: {hour_sec:g} s of video, compiled", again, "s"),
      running.row(f"{kind}: memory for it", _peak_mib() - before, "MiB"),
    ]
  return rows


if __name__ == "__main__":
  running.main(measure, __doc__)
