"""Reads JSON, JSON lines and text; logs problems with their locations."""

import contextlib
import gc
import itertools
import json
import math
from collections.abc import Iterable, Iterator
from typing import Any

from clap_jax.annotations.problems import MalformedFileError, ProblemLog
from clap_jax.storage import locations, text_tables, untrusted

_MAX_BYTES = 8 << 30  # files of millions of predictions are real
_PICKLES = (".pkl", ".pickle", ".pt", ".pth")


@contextlib.contextmanager
def paused_collection() -> Iterator[None]:
  """Pauses the cyclic garbage collector.

  Its repeated scans of the millions of objects of a large file would more than
  double the time.
  """
  was_enabled = gc.isenabled()
  gc.disable()
  try:
    yield
  finally:
    if was_enabled:
      gc.enable()


def read_text(path: locations.Location, log: ProblemLog) -> str:
  """Reads a text file; see `text_tables.read_text`.

  Raises:
    MalformedFileError: the file is a pickle, or not text.
    OSError: the file cannot be opened.
  """
  if path.suffix in _PICKLES:
    log.fail(
      "",
      f"got a pickle ({path.suffix}), which can run code when opened; expected "
      "JSON. If you trust the file, load its dictionary of columns and write "
      "json.dump({key: list(map(float, value)) or list(value), ...}, file) "
      "with the keys video-id, t-start, t-end, label, score",
    )
  try:
    return text_tables.read_text(path, max_bytes=_MAX_BYTES)
  except ValueError as error:  # the log adds the file's name itself
    log.fail("", str(error).removeprefix(f"{path}, "))


def read_json(path: locations.Location, log: ProblemLog) -> Any:
  """One JSON document. A repeated key is a problem, not a silent choice.

  Raises:
    MalformedFileError: not JSON.
  """
  return _parse(read_text(path, log), log=log, location="")


def read_json_or_lines(
  path: locations.Location, log: ProblemLog
) -> tuple[Any, Iterable[tuple[str, Any]] | None]:
  """Reads a JSON document, or JSON lines as ("line 3", value).

  A file holds lines if its name ends in .jsonl, or if its first line is an
  object and more lines follow. Invalid lines become problems.

  Returns:
    (document, None) or (None, lines).

  Raises:
    MalformedFileError: the document is not JSON.
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
      continue  # logged; later lines may have problems too
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

  Other values become problems.

  Raises:
    MalformedFileError: the file is neither JSON lines nor a JSON list.
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


def _parse(text: str, *, log: ProblemLog, location: str) -> Any:
  try:
    return untrusted.parse_json(text, name="it")
  except untrusted.UntrustedFileError as error:
    log.fail(location, str(error))


def kind(value: Any) -> str:
  """Describes a value briefly, for messages."""
  if isinstance(value, dict):
    return f"an object with the keys {sorted(map(str, value))[:8]}"
  if isinstance(value, list):
    return f"a list of {len(value)}"
  text = repr(value)
  return text if len(text) <= 60 else f"{text[:57]}..."


def is_number(value: Any) -> bool:
  """Returns True for a finite int or float; a bool is not a number."""
  try:
    return type(value) in (int, float) and math.isfinite(value)
  except OverflowError:  # an integer that no float holds
    return False


def to_number(value: Any) -> float | None:
  """Converts a number or its text to a float; returns None otherwise."""
  if isinstance(value, str):
    try:
      value = float(value)
    except ValueError:
      return None
  return float(value) if is_number(value) else None


def to_seconds(value: Any, *, decimal_comma: bool = False) -> float | None:
  """Converts a number, its text or a clock time to seconds, or None."""
  try:
    return text_tables.seconds(value, decimal_comma=decimal_comma)
  except ValueError:
    return None
