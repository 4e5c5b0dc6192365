"""The training loop, independent of tasks, files and metrics."""

import collections
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax

from clap_jax.training import (
  device_batches,
  goodput,
  preemption,
  processes,
  watchdog,
)
from clap_jax.training import hooks as hooks_lib
from clap_jax.training.utilization import Utilization


class _Clock:
  """Steps per second and the share of it spent waiting for input.

  Over the last `window_steps` finished steps, so without the first one, which
  compiles.
  """

  def __init__(
    self, ledger: goodput.GoodputTracker, *, window_steps: int = 100
  ):
    self._ledger = ledger
    self._began_sec = time.perf_counter()
    self._finished = collections.deque(maxlen=window_steps + 1)
    self._input_wait_sec = self._excluded_sec = 0.0
    self.utilization: Utilization | None = None

  def add_input_wait(self, seconds: float) -> None:
    self._input_wait_sec += seconds

  def exclude(self, seconds: float) -> None:
    """Takes out time that was not spent on training."""
    self._excluded_sec += seconds

  def finish_step(self) -> None:
    now_sec = time.perf_counter() - self._excluded_sec
    if self._finished:
      before_sec, before_wait_sec = self._finished[-1]
      self._ledger.add("steps", now_sec - before_sec)
      self._ledger.add("input_wait", self._input_wait_sec - before_wait_sec)
    else:
      self._ledger.add("start", now_sec - self._began_sec)
    self._finished.append((now_sec, self._input_wait_sec))

  def read(self) -> dict[str, float]:
    """The scalars; none before two steps are done."""
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


def run_loop(
  state: Any,
  *,
  step_function: Callable,
  batches: device_batches.DeviceBatches,
  start_step: int,
  last_step: int,
  hooks: Sequence[hooks_lib.Hook],
  stop: preemption.StopRequest,
  stall_watchdog: watchdog.Watchdog,
  ledger: goodput.GoodputTracker,
) -> Any:
  """Trains from `start_step` steps done to `last_step` steps done.

  The metrics of a step are fetched after the next step has been dispatched, so
  that the device does not wait for the host; only before hooks that need the
  state is the step waited for.

  Args:
    state: after `start_step` steps; donated.
    step_function: (state, batch) -> (state, metrics); donates the state.
    batches: yields the batch of step `start_step + 1` first.
    start_step: steps done.
    last_step: where to end.
    hooks: called in order.
    stop: asks to end early.
    dog: is told about every bit of progress.
    ledger: gets the time of the steps.

  Returns:
    The last state.

  Raises:
    preemption.Preempted: after a stop request; the hooks have seen the state.
    hooks.SkipLimitError: from the guard; the state is lost.
    ValueError: if the batches end too early.
  """
  clock = _Clock(ledger)
  pending = None
  for step in range(start_step + 1, last_step + 1):
    begin_sec = time.perf_counter()
    stall_watchdog.enter(watchdog.INPUT, step - 1)
    batch = next(batches, None)
    if batch is None:
      raise ValueError(
        f"The batches ended after step {step - 1}; the run is to have "
        f"{last_step} steps: the source must repeat."
      )
    input_sec = time.perf_counter() - begin_sec
    clock.add_input_wait(input_sec)
    stall_watchdog.spent(input_sec)
    stall_watchdog.enter(watchdog.DISPATCH, step - 1)
    if step == start_step + 1:
      clock.utilization = Utilization(step_function, state, batch)
      step_function = processes.compiled_by_all(step_function, state, batch)
    # By this mark a profile tells one step from the next.
    with jax.profiler.StepTraceAnnotation("train", step_num=step):
      state, metrics = step_function(state, batch)
    stall_watchdog.enter(watchdog.DEVICE, step)
    if pending is not None:
      _deliver(*pending, hooks, clock, batches)
    pending = (step, metrics)
    last = step == last_step
    stopping = stop.is_due(step) and not last
    wanting = [
      hook for hook in hooks if hook.wants_state(step) or last or stopping
    ]
    if wanting:
      _deliver(*pending, hooks, clock, batches)
      pending = None
      ledger.reached(step)
      begin_sec = time.perf_counter()
      stall_watchdog.enter(watchdog.HOOKS, step)
      for hook in wanting:
        hook.on_state(step, state, stopping=stopping)
      clock.exclude(time.perf_counter() - begin_sec)
    if stopping:
      preempted = preemption.Preempted(step)
      processes.say(str(preempted))
      raise preempted
  return state


def _deliver(step, metrics, hooks, clock, batches) -> None:
  """Waits for a step's metrics and hands them to the hooks that want them."""
  wanting = [hook for hook in hooks if hook.wants_metrics(step)]
  # Even if nobody wants them: a host that ran ahead would fill the memory with
  # batches.
  jax.block_until_ready(metrics["loss"])
  clock.finish_step()
  if not wanting:
    return
  host = {f"train/{k}": v for k, v in jax.device_get(metrics).items()}
  host |= clock.read() | batches.scalars()
  for hook in wanting:
    hook.on_metrics(step, host)
