"""Writes metrics.jsonl and TensorBoard events of a run."""

import os
import pathlib
import tempfile
import time
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import orjson
import tensorboardX

from clap_jax.storage import line_parts, locations, output, untrusted
from clap_jax.training import processes

METRICS_FILE = "metrics.jsonl"
_MAX_METRICS_BYTES = 8 << 30
TENSORBOARD_DIRECTORY = "tensorboard"
PARTS_FOLDER = f"{METRICS_FILE}.parts"  # in a bucket
_UPLOAD_SEC = 30.0


class _Lines(Protocol):
  """The metrics file, with one JSON object per line."""

  def append(self, line: bytes) -> None: ...

  def flush(self) -> None:
    """Waits until all lines are written."""

  def close(self) -> None: ...


class _FileLines:
  """A local file that lines are appended to."""

  def __init__(self, path: pathlib.Path, *, step: int):
    _drop_lines_after(path, step)
    self._file = output.open_appending(path)

  def append(self, line: bytes) -> None:
    self._file.write(line)
    self._file.flush()

  def flush(self) -> None:
    self._file.flush()
    os.fsync(self._file.fileno())

  def close(self) -> None:
    self._file.close()


class _ObjectLines(line_parts.LineParts):
  """Objects in a bucket that are joined when read."""

  def __init__(self, workdir: locations.ObjectPath, *, step: int):
    super().__init__(
      workdir / PARTS_FOLDER, keep=lambda line: _is_kept(line, step)
    )

  def close(self) -> None:
    self.flush()


class _Events:
  """TensorBoard event files; those for a bucket are uploaded periodically."""

  def __init__(self, workdir: locations.Location, *, step: int):
    self._target = workdir / TENSORBOARD_DIRECTORY
    self._scratch = None
    folder = self._target
    if isinstance(folder, locations.ObjectPath):
      self._scratch = tempfile.TemporaryDirectory()
      folder = pathlib.Path(self._scratch.name)
    self._writer = tensorboardX.SummaryWriter(
      str(output.make_folder(folder)), purge_step=step + 1
    )
    self._sent_sec = time.monotonic()

  def add(self, step: int, scalars: Mapping[str, Any]) -> None:
    for name, value in scalars.items():
      if value is not None:
        self._writer.add_scalar(name, value, step)
    if self._scratch and time.monotonic() - self._sent_sec >= _UPLOAD_SEC:
      self.flush()

  def flush(self) -> None:
    self._writer.flush()
    self._send()

  def close(self) -> None:
    self._writer.close()
    self._send()
    if self._scratch is not None:
      self._scratch.cleanup()

  def _send(self) -> None:
    if self._scratch is None:
      return
    self._sent_sec = time.monotonic()
    for path in pathlib.Path(self._scratch.name).iterdir():
      output.copy(path, self._target / path.name)


class MetricsWriter:
  """Appends one JSON object per write, with `step` and scalars by path.

  Lines of steps after `step`, and a line truncated by a crash, are removed when
  the file is opened: a run resumed at that step writes them again. Non-finite
  values are written as null, and omitted from TensorBoard's event files.
  """

  def __init__(
    self, workdir: locations.Location, *, step: int, tensorboard: bool = False
  ):
    self._lines: _Lines
    if isinstance(workdir, locations.ObjectPath):
      self._lines = _ObjectLines(workdir, step=step)
    else:
      self._lines = _FileLines(workdir / METRICS_FILE, step=step)
    self._events = _Events(workdir, step=step) if tensorboard else None

  def write(self, step: int, scalars: Mapping[str, Any]) -> None:
    plain = {name: _plain(value) for name, value in scalars.items()}
    self._lines.append(orjson.dumps({"step": int(step)} | plain) + b"\n")
    if self._events is not None:
      self._events.add(int(step), plain)

  def sync(self) -> None:
    """Waits until all lines are on disk, or in the bucket."""
    self._lines.flush()
    if self._events is not None:
      self._events.flush()

  def close(self) -> None:
    self._lines.close()
    if self._events is not None:
      self._events.close()


class NoWriter:
  """A writer of processes other than the first; discards its input."""

  def write(self, step: int, scalars: Mapping[str, Any]) -> None:
    pass

  def sync(self) -> None:
    pass

  def close(self) -> None:
    pass


def open_writer(
  workdir: locations.Location, *, step: int, tensorboard: bool
) -> MetricsWriter | NoWriter:
  """Opens the writer of this process."""
  if not processes.is_first():
    return NoWriter()
  return MetricsWriter(workdir, step=step, tensorboard=tensorboard)


def read_metrics(workdir: locations.Location) -> list[dict[str, Any]]:
  """Reads all records of a run, in the order of writing."""
  if isinstance(workdir, locations.ObjectPath):
    content = line_parts.read(workdir / PARTS_FOLDER)
  else:
    content = untrusted.read_bytes(
      METRICS_FILE, folder=workdir, max_bytes=_MAX_METRICS_BYTES
    )
  lines = content.splitlines()
  return [orjson.loads(line) for line in lines]


def has_scalars(workdir: locations.Location, step: int, *, prefix: str) -> bool:
  """Returns True if a scalar of this prefix was recorded at `step`."""
  is_local = not isinstance(workdir, locations.ObjectPath)
  if is_local and not (workdir / METRICS_FILE).is_file():
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
  lines = content.splitlines(keepends=True)
  kept = [line for line in lines if _is_kept(line, step)]
  output.write_bytes(path, b"".join(kept))


def _is_kept(line: bytes, step: int) -> bool:
  """Returns True if a line is complete and of a step up to `step`."""
  try:
    record = orjson.loads(line)
  except orjson.JSONDecodeError:
    return False
  return line.endswith(b"\n") and record["step"] <= step


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
