"""Reads JSON, JSON lines and text, noting problems with their locations."""

import collections
import contextlib
import gc
import json
import math
import pathlib
from collections.abc import Iterator
from typing import Any

from clap_jax.metrics.problems import MalformedFileError, ProblemLog

_PICKLES = (".pkl", ".pickle", ".pt", ".pth")


@contextlib.contextmanager
def paused_collection() -> Iterator[None]:
  """Pauses the cyclic garbage collector.

  A large file becomes a million small objects, none of them garbage; scanning
  them again and again would more than double the time.
  """
  was_enabled = gc.isenabled()
  gc.disable()
  try:
    yield
  finally:
    if was_enabled:
      gc.enable()


def read_text(path: pathlib.Path, log: ProblemLog) -> str:
  """The text of a file.

  Raises:
    MalformedFileError: a pickle, or not UTF-8 text.
    OSError: the file cannot be opened.
  """
  if path.suffix in _PICKLES:
    log.add(
      "",
      f"got a pickle ({path.suffix}), which can run code when it is opened and "
      "is refused; expected JSON. Convert it where you trust it: load the "
      "dictionary of columns and write "
      "json.dump({key: list(map(float, value)) or list(value), ...}, file) "
      "with the keys video-id, t-start, t-end, label, score",
    )
    log.raise_if_any()
  try:
    return path.read_text(encoding="utf-8-sig")
  except UnicodeDecodeError as error:
    log.add(
      f"byte {error.start}", "got bytes that are not UTF-8; expected text"
    )
    raise MalformedFileError(path, log.problems) from error


def read_json(path: pathlib.Path, log: ProblemLog) -> Any:
  """One JSON document. A repeated key is a problem, not a silent choice.

  Raises:
    MalformedFileError: not JSON.
  """
  return _parse(read_text(path, log), log=log, location="")


def read_json_lines(
  path: pathlib.Path, log: ProblemLog
) -> Iterator[tuple[str, dict[str, Any]]]:
  """Yields ("line 3", object); lines that hold no object become problems."""
  for number, line in enumerate(read_text(path, log).splitlines(), start=1):
    if not line.strip():
      continue
    location = f"line {number}"
    try:
      record = _parse(line, log=log, location=location)
    except MalformedFileError:
      continue  # noted; the next lines are read for their own problems
    if isinstance(record, dict):
      yield location, record
    else:
      log.add(location, f"got {kind(record)}; expected a JSON object")


def _parse(text: str, *, log: ProblemLog, location: str) -> Any:
  def without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
      times = collections.Counter(key for key, _ in pairs)
      repeated = sorted(key for key, count in times.items() if count > 1)
      log.add(location, f"got the same key more than once: {repeated}")
    return result

  try:
    return json.loads(text, object_pairs_hook=without_repeats)
  except json.JSONDecodeError as error:
    where = f"line {error.lineno}, column {error.colno}"
    at = f"{location}, column {error.colno}" if location else where
    log.add(at, f"not JSON: {error.msg}")
  except RecursionError:
    log.add(location, "got JSON nested too deeply to be a prediction file")
  raise MalformedFileError(log.path, log.problems)


def kind(value: Any) -> str:
  """A short name of a value for messages."""
  if isinstance(value, dict):
    return f"an object with the keys {sorted(map(str, value))[:8]}"
  if isinstance(value, list):
    return f"a list of {len(value)}"
  text = repr(value)
  return text if len(text) <= 60 else f"{text[:57]}..."


def is_number(value: Any) -> bool:
  """True for a finite int or float; a bool is not a number."""
  return type(value) in (int, float) and math.isfinite(value)


def to_number(value: Any) -> float | None:
  """The number a value holds, text allowed; None where it holds none."""
  if isinstance(value, str):
    try:
      value = float(value)
    except ValueError:
      return None
  return float(value) if is_number(value) else None
