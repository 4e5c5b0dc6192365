"""Tracks the time of a run over all its starts: goodput.json.

Goodput is the time of steps whose results were kept over the total running
time. Steps repeated after a kill count once.
"""

import contextlib
import time
from collections.abc import Iterator

from clap_jax.storage import locations, untrusted
from clap_jax.training import workdir as workdir_lib

GOODPUT_FILE = "goodput.json"
KINDS = ("start", "steps", "input_wait", "evaluation", "saving")


class GoodputTracker:
  """Tracks the seconds of one start of a run; the file has earlier ones.

  `input_wait` is a part of `steps`. Time is counted from construction on.
  """

  def __init__(self, workdir: locations.Location, *, start_step: int):
    self._path = workdir / GOODPUT_FILE
    self._earlier = _read(self._path)
    self._began_sec = time.monotonic()
    self._now = {
      "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
      "start_step": start_step,
      "last_step": start_step,
      "wall_sec": 0.0,
      **{f"{kind}_sec": 0.0 for kind in KINDS},
    }

  def add(self, kind: str, seconds: float) -> None:
    self._now[f"{kind}_sec"] += seconds

  @contextlib.contextmanager
  def measured(self, kind: str) -> Iterator[None]:
    began_sec = time.perf_counter()
    try:
      yield
    finally:
      self.add(kind, time.perf_counter() - began_sec)

  def reached(self, step: int) -> None:
    self._now["last_step"] = step

  def record_rollback(self, step: int, to_step: int) -> None:
    """Records that the steps after `to_step` up to `step` were discarded."""
    num_steps = max(step - self._now["start_step"], 1)
    lost = min(step - to_step, num_steps) / num_steps
    self._now["steps_sec"] *= 1 - lost
    self._now["input_wait_sec"] *= 1 - lost

  def write(self) -> None:
    self._now["wall_sec"] = time.monotonic() - self._began_sec
    starts = [*self._earlier, self._now]
    workdir_lib.write_json(
      self._path, {"goodput": goodput(starts), "starts": starts}
    )

  def summary(self) -> str:
    """Returns a summary line for the end of a run."""
    starts = [*self._earlier, self._now]
    total = {
      kind: sum(start[f"{kind}_sec"] for start in starts) for kind in KINDS
    }
    wall_sec = sum(start["wall_sec"] for start in starts)
    redone_sec = total["steps"] - _kept_sec(starts)
    return (
      f"goodput {100 * goodput(starts):.1f} % of {wall_sec:.1f} s in "
      f"{len(starts)} start(s): steps {total['steps']:.1f} s (waiting for "
      f"input {total['input_wait']:.1f} s, done twice {redone_sec:.1f} s), "
      f"evaluation {total['evaluation']:.1f} s, saving {total['saving']:.1f} "
      f"s, starting and compiling {total['start']:.1f} s"
    )


def goodput(starts: list[dict]) -> float:
  """Returns kept step time over total time, in [0, 1]; initially 0."""
  wall_sec = sum(start["wall_sec"] for start in starts)
  return _kept_sec(starts) / wall_sec if wall_sec else 0.0


def _kept_sec(starts: list[dict]) -> float:
  """Returns the step time of each start up to the resume point."""
  kept_sec = 0.0
  for number, start in enumerate(starts):
    last = start["last_step"]
    for later in starts[number + 1 :]:
      last = min(last, later["start_step"])
    num_steps = start["last_step"] - start["start_step"]
    if num_steps > 0:
      share = max(last - start["start_step"], 0) / num_steps
      kept_sec += share * start["steps_sec"]
  return kept_sec


def _read(path: locations.Location) -> list[dict]:
  return untrusted.read_json(path)["starts"] if path.is_file() else []
