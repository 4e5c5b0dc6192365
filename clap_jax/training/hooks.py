"""Hooks of the training loop: metrics, progress, evaluation, checkpoints."""

import math
import pathlib
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import rich.console
import rich.progress

from clap_jax.storage import locations, output
from clap_jax.training import checkpoint as checkpoint_lib
from clap_jax.training import goodput, processes, watchdog
from clap_jax.training import writer as writer_lib


class SkipLimitError(RuntimeError):
  """Raised if the guard skips too many updates in a row."""

  def __init__(
    self, *, step: int, in_a_row: int, total: int, num_rollbacks: int
  ):
    super().__init__(
      f"{in_a_row} updates in a row up to step {step} had a loss or gradient "
      "that is not finite or an outlier. Look at the data, lower the learning "
      "rate, or raise loop.max_skipped_in_a_row, loop.max_rollbacks or "
      "loop.outlier_deviations."
    )
    self.step = step
    self.in_a_row = in_a_row
    self.total = total
    self.num_rollbacks = num_rollbacks


class Hook:
  """Base class of hooks; its methods do nothing.

  `on_metrics` gets host scalars one step late, `on_state` the live state before
  the next step donates it: a hook must not keep it.
  """

  def __init__(self, *, every_steps: int | None = None, last_step: int = 0):
    self._every_steps = every_steps
    self._last_step = last_step

  def _is_due(self, step: int) -> bool:
    return self._every_steps is not None and step % self._every_steps == 0

  def wants_metrics(self, step: int) -> bool:
    return False

  def on_metrics(self, step: int, metrics: Mapping[str, Any]) -> None:
    pass

  def wants_state(self, step: int) -> bool:
    return False

  def on_state(self, step: int, state: Any, *, stopping: bool) -> None:
    """Called on due steps, and on the last one or an early stop.

    Args:
      step: number of completed steps.
      stopping: whether the run stops early after this step.
    """

  def close(self) -> None:
    pass


class MetricsLog(Hook):
  """Writes metrics every `every_steps` steps, and of the first and last."""

  def __init__(self, writer: writer_lib.MetricsWriter, **steps: int):
    super().__init__(**steps)
    self._writer = writer

  def wants_metrics(self, step):
    return self._is_due(step) or step in (1, self._last_step)

  def on_metrics(self, step, metrics):
    self._writer.write(step, metrics)


class Accounting(Hook):
  """Writes the goodput tracker to disk: a killed process has no time to."""

  _EVERY_SEC = 5.0

  def __init__(self, tracker: goodput.GoodputTracker, **steps: int):
    super().__init__(**steps)
    self._tracker = tracker
    self._next_sec = 0.0

  def wants_metrics(self, step):
    return self._is_due(step) and processes.is_first()

  def on_metrics(self, step, metrics):
    self._tracker.reached(step)
    if time.monotonic() >= self._next_sec:
      self._tracker.write()
      self._next_sec = time.monotonic() + self._EVERY_SEC


class SkipLimit(Hook):
  """Reports skipped updates; raises after too many in a row."""

  def __init__(self, *, max_skipped_in_a_row: int):
    self._maximum = max_skipped_in_a_row
    self._total = 0

  def wants_metrics(self, step):
    return True

  def on_metrics(self, step, metrics):
    total = int(metrics["train/guard/skipped"])
    if total > self._total:
      processes.print_on_first(
        f"step {step}: update skipped, loss {metrics['train/loss']:.4g}, "
        f"gradient norm {metrics['train/grad_norm']:.4g}: not finite or an "
        f"outlier ({total} so far)"
      )
    self._total = total
    in_a_row = int(metrics["train/guard/skipped_in_a_row"])
    if in_a_row >= self._maximum:
      raise SkipLimitError(
        step=step,
        in_a_row=in_a_row,
        total=total,
        num_rollbacks=int(metrics["train/guard/rollbacks"]),
      )


class Stragglers(Hook):
  """Reports the process that the others wait for."""

  _SLOW_TIMES = 1.5  # the median
  _SLOW_SHARE = 0.1  # of a whole step; less is not reported

  def __init__(self, writer: writer_lib.MetricsWriter, **steps: int):
    super().__init__(**steps)
    self._writer = writer

  def wants_metrics(self, step):
    return self._is_due(step) and processes.is_first()

  def on_metrics(self, step, metrics):
    everyone = processes.published()
    if len(everyone) < 2:
      return
    process, times = watchdog.slowest(everyone)
    self._writer.write(
      step,
      {"perf/slowest_process": process, "perf/slowest_over_median": times},
    )
    host_sec = everyone[process]["host_sec"]
    share = host_sec * metrics.get("perf/steps_per_sec", 0.0)
    if times > self._SLOW_TIMES and share > self._SLOW_SHARE:
      processes.print_on_first(
        f"step {step}: process {process} on {everyone[process]['host']} is "
        f"slow: {host_sec:.2f} s per step for its input, {times:.1f} times the "
        "median of all processes"
      )


class Progress(Hook):
  """Shows a progress bar on a terminal, occasional lines elsewhere."""

  def __init__(
    self, *, title: str, start_step: int, last_step: int, every_steps: int
  ):
    super().__init__(every_steps=every_steps, last_step=last_step)
    self._title = title
    self._next_line_sec = 0.0
    self._bar = None
    console = rich.console.Console(stderr=True)
    if console.is_terminal:
      self._bar = rich.progress.Progress(
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TextColumn("loss {task.fields[loss]:.4f}"),
        rich.progress.TimeRemainingColumn(),
        console=console,
      )
      self._task = self._bar.add_task(
        title, total=last_step, completed=start_step, loss=math.nan
      )
      self._bar.start()

  def wants_metrics(self, step):
    return self._is_due(step) or step == self._last_step

  def on_metrics(self, step, metrics):
    loss = float(metrics["train/loss"])
    if self._bar is not None:
      self._bar.update(self._task, completed=step, loss=loss)
      return
    now_sec = time.monotonic()
    if now_sec < self._next_line_sec and step != self._last_step:
      return
    self._next_line_sec = now_sec + 10.0
    rate = metrics.get("perf/steps_per_sec", math.nan)
    print(
      f"{self._title}: step {step}/{self._last_step}, loss {loss:.4f}, "
      f"{rate:.2f} steps/s",
      file=sys.stderr,
      flush=True,
    )

  def close(self):
    if self._bar is not None:
      self._bar.stop()


class Profile(Hook):
  """Profiles some steps for TensorBoard or Perfetto, after warm-up."""

  _WARM_UP_STEPS = 10

  def __init__(
    self,
    directory: locations.Location,
    *,
    num_steps: int,
    start_step: int,
    last_step: int,
  ):
    """Plans the trace.

    Args:
      start_step: number of completed steps.
      last_step: last step of the run; a short one is traced from its middle.
    """
    self._directory = directory
    self._scratch: tempfile.TemporaryDirectory | None = None
    wait_steps = min(self._WARM_UP_STEPS, max(last_step - start_step, 2) // 2)
    self._first = start_step + wait_steps
    self._last = min(self._first + num_steps, last_step)
    self._tracing = False

  def wants_metrics(self, step):
    return step in (self._first, self._last)

  def on_metrics(self, step, metrics):
    if step == self._first:
      folder = self._directory
      if isinstance(folder, locations.ObjectPath):  # sent when it is whole
        self._scratch = tempfile.TemporaryDirectory()
        folder = self._scratch.name
      jax.profiler.start_trace(str(folder))
      self._tracing = True
    elif self._tracing:
      self.close()
      processes.print_on_first(
        f"steps {self._first + 1} to {self._last} are traced in "
        f"{self._directory}"
      )

  def close(self):
    if self._tracing:
      self._tracing = False
      jax.profiler.stop_trace()
      self._send()

  def _send(self) -> None:
    if self._scratch is None:
      return
    root = pathlib.Path(self._scratch.name)
    for path in root.rglob("*"):
      if path.is_file():
        output.copy(path, self._directory / path.relative_to(root))
    self._scratch.cleanup()


class Evaluation(Hook):
  """Writes scalars of `evaluate(params, step)` periodically and at the end."""

  def __init__(
    self,
    evaluate: Callable[[Any, int], Mapping[str, Any]],
    writer: writer_lib.MetricsWriter,
    *,
    every_steps: int | None,
    tracker: goodput.GoodputTracker,
  ):
    super().__init__(every_steps=every_steps)
    self._evaluate = evaluate
    self._writer = writer
    self._tracker = tracker

  def wants_state(self, step):
    return self._is_due(step)

  def on_state(self, step, state, *, stopping):
    if stopping:
      return  # there is only time to save
    params = state.params if state.ema is None else state.ema
    with self._tracker.measured("evaluation"):
      self._writer.write(step, self._evaluate(params, step))


class Checkpointing(Hook):
  """Saves checkpoints periodically and at the end.

  Must run after the hooks that write metrics and before the evaluation, so that
  a failed evaluation loses no step.
  """

  def __init__(
    self,
    checkpoints: checkpoint_lib.Checkpoints,
    writer: writer_lib.MetricsWriter,
    *,
    metadata: Mapping[str, Any],
    tracker: goodput.GoodputTracker,
    **steps: int,
  ):
    super().__init__(**steps)
    self._checkpoints = checkpoints
    self._writer = writer
    self._metadata = metadata
    self._tracker = tracker

  def wants_state(self, step):
    self._checkpoints.poll()  # raises background errors
    return self._is_due(step)

  def on_state(self, step, state, *, stopping):
    # The record up to this step is on disk before the checkpoint can be: a
    # resumed run then finds every line that it will not write again.
    with self._tracker.measured("saving"):
      self._writer.sync()
      self._checkpoints.save(step, state, metadata=self._metadata)
      if step == self._last_step:
        self._checkpoints.wait()
