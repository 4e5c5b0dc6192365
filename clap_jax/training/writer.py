"""The record of a run: metrics.jsonl, and TensorBoard's view of it."""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson
import tensorboardX

from clap_jax.storage import output, untrusted
from clap_jax.training import processes

METRICS_FILE = "metrics.jsonl"
_MAX_METRICS_BYTES = 8 << 30
TENSORBOARD_DIRECTORY = "tensorboard"


class MetricsWriter:
  """Appends one JSON object per write: `step` and path-named scalars.

  Lines of steps after `step` are removed when the file is opened, and so is a
  line that a crash cut short: a run resumed at that step writes them again.
  A value that is not finite is written as null. The event files of TensorBoard
  get the same, without what is not finite.
  """

  def __init__(
    self, workdir: pathlib.Path, *, step: int, tensorboard: bool = False
  ):
    self._path = workdir / METRICS_FILE
    _drop_lines_after(self._path, step)
    self._file = output.open_appending(self._path)
    self._events = None
    if tensorboard:
      self._events = tensorboardX.SummaryWriter(
        str(output.make_folder(workdir / TENSORBOARD_DIRECTORY)),
        purge_step=step + 1,
      )

  def write(self, step: int, scalars: Mapping[str, Any]) -> None:
    plain = {name: _plain(value) for name, value in scalars.items()}
    self._file.write(orjson.dumps({"step": int(step)} | plain) + b"\n")
    self._file.flush()
    if self._events is not None:
      for name, value in plain.items():
        if value is not None:
          self._events.add_scalar(name, value, int(step))

  def sync(self) -> None:
    """Returns when all lines are on the disk."""
    self._file.flush()
    os.fsync(self._file.fileno())
    if self._events is not None:
      self._events.flush()

  def close(self) -> None:
    self._file.close()
    if self._events is not None:
      self._events.close()


class NoWriter:
  """In all processes but the first: what it gets is written there."""

  def write(self, step: int, scalars: Mapping[str, Any]) -> None:
    pass

  def sync(self) -> None:
    pass

  def close(self) -> None:
    pass


def open_writer(
  workdir: pathlib.Path, *, step: int, tensorboard: bool
) -> MetricsWriter | NoWriter:
  """The writer of this process."""
  if not processes.is_first():
    return NoWriter()
  return MetricsWriter(workdir, step=step, tensorboard=tensorboard)


def read_metrics(workdir: pathlib.Path) -> list[dict[str, Any]]:
  """All records of a run, in the order they were written."""
  content = untrusted.read_bytes(
    METRICS_FILE, folder=workdir, max_bytes=_MAX_METRICS_BYTES
  )
  lines = content.splitlines()
  return [orjson.loads(line) for line in lines]


def has_scalars(workdir: pathlib.Path, step: int, *, prefix: str) -> bool:
  """Whether the record holds a scalar of that prefix, written at `step`."""
  if not (workdir / METRICS_FILE).is_file():
    return False
  return any(
    name.startswith(prefix)
    for line in read_metrics(workdir)
    if line["step"] == step
    for name in line
  )


def _drop_lines_after(path: pathlib.Path, step: int) -> None:
  try:
    content = untrusted.read_bytes(
      path.name, folder=path.parent, max_bytes=_MAX_METRICS_BYTES
    )
  except FileNotFoundError:
    return
  kept = []
  for line in content.splitlines(keepends=True):
    try:
      record = orjson.loads(line)
    except orjson.JSONDecodeError:
      continue
    if line.endswith(b"\n") and record["step"] <= step:
      kept.append(line)
  output.write_bytes(path, b"".join(kept))


def _plain(value: Any) -> float | int | None:
  scalar = np.asarray(value)
  if scalar.ndim:
    raise ValueError(f"Metrics must be scalars, got shape {scalar.shape}.")
  if not np.isfinite(scalar):
    return None
  if scalar.dtype == bool or np.issubdtype(scalar.dtype, np.integer):
    return int(scalar)
  # float32 printed as such: 0.1, not 0.10000000149011612.
  return float(str(scalar))
