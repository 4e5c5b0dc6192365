"""Measures steps per second and model FLOP utilization of a run."""

import collections
import time
from typing import Any

import jax

from clap_jax.training import flops as flops_lib
from clap_jax.training import goodput, topology

# Dense bfloat16 peaks by JAX's device_kind. TPU v4: Google Cloud's
# documentation; H100 and H200 (SXM): NVIDIA's data sheets.
_V5E, _V6E, _V5P, _TPU7X = (
  chip.flops_per_sec / chip.num_devices
  for chip in (topology.CHIPS[n] for n in ("v5e", "v6e", "v5p", "tpu7x"))
)
PEAK_FLOPS_PER_SEC = {
  "TPU v4": 275e12,
  "TPU v5 lite": _V5E,
  "TPU v5e": _V5E,
  "TPU v5": _V5P,
  "TPU v5p": _V5P,
  "TPU v6 lite": _V6E,
  "TPU v6e": _V6E,
  "TPU7x": _TPU7X,  # each half of a chip is a device
  "NVIDIA H100 80GB HBM3": 989e12,
  "NVIDIA H200": 989e12,
}


class Utilization:
  """Computes utilization from the operations and time of a step."""

  def __init__(self, step_function: Any, state: Any, batch: Any):
    """Traces the step; a jitted step is not traced again later.

    Args:
      step_function: (state, batch) -> (state, metrics), jitted.
      state: state that the step will be called with.
      batch: global batch that the step will be called with.
    """
    leaves = jax.tree.leaves(batch)
    self._num_examples = leaves[0].shape[0]
    self._flops = None
    if hasattr(step_function, "trace"):  # else it is several programs
      count = flops_lib.count(step_function.trace(state, batch).jaxpr)
      # The number of iterations of an unbounded loop is unknown.
      self._flops = None if count.unknown_loops else count.flops
    devices = leaves[0].sharding.device_set
    kind = next(iter(devices)).device_kind
    peak = PEAK_FLOPS_PER_SEC.get(kind)
    self._peak = None if peak is None else peak * len(devices)

  def read(self, steps_per_sec: float) -> dict[str, float]:
    """Returns examples per second and, if the peak is known, MFU.

    `perf/mfu` is model FLOP utilization: the matrix products and convolutions
    of the traced step, including rematerialization, over the bfloat16 peak of
    all devices.
    """
    scalars = {"perf/examples_per_sec": self._num_examples * steps_per_sec}
    if self._flops is not None:
      scalars["perf/flops_per_sec"] = self._flops * steps_per_sec
      if self._peak is not None:
        scalars["perf/mfu"] = self._flops * steps_per_sec / self._peak
    return scalars


class Clock:
  """Measures steps per second and the share of time waiting for input.

  Covers the last `window_steps` finished steps, excluding the first one, which
  compiles.
  """

  def __init__(
    self, tracker: goodput.GoodputTracker, *, window_steps: int = 100
  ):
    self._tracker = tracker
    self._began_sec = time.perf_counter()
    self._finished = collections.deque(maxlen=window_steps + 1)
    self._input_wait_sec = self._excluded_sec = 0.0
    self.utilization: Utilization | None = None

  def add_input_wait(self, seconds: float) -> None:
    self._input_wait_sec += seconds

  def exclude(self, seconds: float) -> None:
    """Excludes time that was not spent on training."""
    self._excluded_sec += seconds

  def finish_step(self) -> None:
    now_sec = time.perf_counter() - self._excluded_sec
    if self._finished:
      before_sec, before_wait_sec = self._finished[-1]
      self._tracker.add("steps", now_sec - before_sec)
      self._tracker.add("input_wait", self._input_wait_sec - before_wait_sec)
    else:
      self._tracker.add("start", now_sec - self._began_sec)
    self._finished.append((now_sec, self._input_wait_sec))

  def read(self) -> dict[str, float]:
    """Returns the scalars; none before two steps are done."""
    if len(self._finished) < 2:
      return {}
    first, last = self._finished[0], self._finished[-1]
    seconds = max(last[0] - first[0], 1e-9)
    steps_per_sec = (len(self._finished) - 1) / seconds
    scalars = {
      "perf/steps_per_sec": steps_per_sec,
      "perf/step_sec": 1.0 / steps_per_sec,
      "perf/input_wait_frac": min((last[1] - first[1]) / seconds, 1.0),
    }
    if self.utilization is not None:
      scalars |= self.utilization.read(steps_per_sec)
    return scalars
