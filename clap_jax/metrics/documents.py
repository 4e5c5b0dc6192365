"""Reads JSON, JSON lines and text, noting problems with their locations."""

import collections
import contextlib
import gc
import itertools
import json
import math
from collections.abc import Iterable, Iterator
from typing import Any

from clap_jax.annotations.problems import MalformedFileError, ProblemLog
from clap_jax.storage import locations, text_tables

_MAX_BYTES = 8 << 30  # files of millions of predictions are real
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


def read_text(path: locations.Location, log: ProblemLog) -> str:
  """The text of a file; see `text_tables.read_text`.

  Raises:
    MalformedFileError: a pickle, or not text.
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
    return text_tables.read_text(path, max_bytes=_MAX_BYTES)
  except ValueError as error:  # it names the file, and so does the log
    log.add("", str(error).removeprefix(f"{path}, "))
    raise MalformedFileError(path, log.problems) from error


def read_json(path: locations.Location, log: ProblemLog) -> Any:
  """One JSON document. A repeated key is a problem, not a silent choice.

  Raises:
    MalformedFileError: not JSON.
  """
  return _parse(read_text(path, log), log=log, location="")


def read_json_or_lines(
  path: locations.Location, log: ProblemLog
) -> tuple[Any, Iterable[tuple[str, Any]] | None]:
  """One JSON document, or JSON lines as ("line 3", value), by the content.

  A file is read by lines if it is called .jsonl, or if its first line is a
  whole value and more follows. Lines that are not JSON become problems.

  Raises:
    MalformedFileError: a document that is not JSON.
  """
  text = read_text(path, log)
  first_lines = list(itertools.islice(_lines(text), 2))
  if path.suffix != ".jsonl" and not _are_lines(first_lines):
    return _parse(text, log=log, location=""), None
  return None, _parsed(_lines(text), log)


def _lines(text: str) -> Iterator[tuple[str, str]]:
  for number, line in enumerate(text.split("\n"), start=1):
    if line.strip():
      yield f"line {number}", line


def _parsed(
  lines: Iterable[tuple[str, str]], log: ProblemLog
) -> Iterator[tuple[str, Any]]:
  for location, line in lines:
    try:
      value = _parse(line, log=log, location=location)
    except MalformedFileError:
      if log.is_full:
        raise
      continue  # noted; the next lines are read for their own problems
    yield location, value


def _are_lines(lines: list[tuple[str, str]]) -> bool:
  if len(lines) < 2:
    return False
  try:
    return isinstance(json.loads(lines[0][1]), dict)
  except (ValueError, RecursionError):
    return False


def read_json_lines(
  path: locations.Location, log: ProblemLog
) -> Iterator[tuple[str, dict[str, Any]]]:
  """Yields ("line 3", object), or ("[2]", object) of a list of objects.

  What is not an object becomes a problem.

  Raises:
    MalformedFileError: neither JSON lines nor a JSON list.
  """
  content, records = read_json_or_lines(path, log)
  if records is None:
    many = isinstance(content, list)
    records = [
      (f"[{index}]" if many else "line 1", record)
      for index, record in enumerate(content if many else [content])
    ]
  for location, record in records:
    if isinstance(record, dict):
      yield location, record
    else:
      log.add(location, f"got {kind(record)}; expected a JSON object")


class _Repeated(dict):
  """An object whose text gives a key more than once."""

  repeated: tuple[str, ...] = ()


def _parse(text: str, *, log: ProblemLog, location: str) -> Any:
  found: list[_Repeated] = []

  def without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
      times = collections.Counter(key for key, _ in pairs)
      result = _Repeated(result)
      result.repeated = tuple(sorted(k for k, n in times.items() if n > 1))
      found.append(result)
    return result

  try:
    value = json.loads(text, object_pairs_hook=without_repeats)
  except json.JSONDecodeError as error:
    where = f"line {error.lineno}, column {error.colno}"
    at = f"{location}, column {error.colno}" if location else where
    log.add(at, f"not JSON: {error.msg}")
  except RecursionError:
    log.add(location, "got JSON nested too deeply to be a prediction file")
  except ValueError as error:  # an integer of thousands of digits
    log.add(location, f"not JSON that can be read: {error}")
  else:
    for place, keys in _repeats(value, location) if found else ():
      log.add(place, f"got the same key more than once: {list(keys)}")
    return value
  raise MalformedFileError(log.path, log.problems)


def _repeats(value: Any, place: str) -> Iterator[tuple[str, tuple[str, ...]]]:
  """Finds repeated keys of a document, with their places."""
  if isinstance(value, _Repeated):
    yield place, value.repeated
  if isinstance(value, dict):
    for key, inner in value.items():
      step = key if not place and key.isidentifier() else f"[{key!r}]"
      yield from _repeats(inner, place + step)
  elif isinstance(value, list):
    for index, inner in enumerate(value):
      yield from _repeats(inner, f"{place}[{index}]")


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
  try:
    return type(value) in (int, float) and math.isfinite(value)
  except OverflowError:  # an integer that no float holds
    return False


def to_number(value: Any) -> float | None:
  """The number a value holds, text allowed; None where it holds none."""
  if isinstance(value, str):
    try:
      value = float(value)
    except ValueError:
      return None
  return float(value) if is_number(value) else None


def to_seconds(value: Any, *, decimal_comma: bool = False) -> float | None:
  """Seconds of a number, its text or a clock time; None of anything else."""
  try:
    return text_tables.seconds(value, decimal_comma=decimal_comma)
  except ValueError:
    return None
