"""Reads features stored as text tables."""

import warnings

import numpy as np

from clap_jax.storage import locations, text_tables

_UNNAMED = ("", "Unnamed: 0")
# Fewer numbers that count 0, 1, 2 by chance can be features.
_MIN_COUNTED = 4


def read(path: locations.PathLike) -> np.ndarray:
  """Reads rows of numbers as float32 (t, d); skips a header.

  An unnamed first column that counts the rows is an index written by pandas or
  R; it is dropped with a warning.

  Raises:
    UntrustedFileError: not a file that can be opened safely.
    ValueError: not rows of numbers, or a table without a header whose first
      column counts the rows.
  """
  delimiter, text, num_skipped = text_tables.split_preamble(
    text_tables.read_text(path)
  )
  lines = text_tables.split_lines(text)
  body = [
    (number, line)
    for number, line in enumerate(lines, num_skipped + 1)
    if line.strip()
  ]
  if not body:
    raise ValueError(f"{path} is empty; expected rows of numbers")
  first = body[0][1]
  if delimiter is None:
    delimiter = text_tables.sniff_delimiter(first, known=set())
  header = _header(first, delimiter, path)
  if header is not None:
    body = body[1:]
  rows = _parse([line for _, line in body], delimiter, path)
  if _drops_index(header, body, rows, delimiter, path):
    warnings.warn(
      "tables of features: the first column, which has no name and counts the "
      "rows, is left out",
      stacklevel=2,
    )
    return rows[:, 1:]
  return rows


def _cells(line: str, delimiter: str) -> list[str]:
  return [cell.strip().strip('"') for cell in line.split(delimiter)]


def _header(line: str, delimiter: str, path) -> list[str] | None:
  """Returns the column names; None if the first row holds features."""
  cells = _cells(line, delimiter)
  numbers = [_is_number(cell, delimiter) for cell in cells]
  counted = cells if all(numbers) else cells[1:]
  is_counted = counted == [str(number) for number in range(len(counted))]
  if all(numbers):
    return cells if is_counted and len(cells) >= _MIN_COUNTED else None
  if any(numbers) and not is_counted:
    name = next(c for c in cells if not _is_number(c, delimiter))
    raise ValueError(
      f"{path}: its first row is neither a header nor numbers, with "
      f"{name!r:.60} beside numbers"
    )
  return cells


def _is_number(cell: str, delimiter: str) -> bool:
  try:
    float(cell if delimiter == "," else cell.replace(",", "."))
  except ValueError:
    return False
  return True


def _parse(lines: list[str], delimiter: str, path) -> np.ndarray:
  if not lines:
    raise ValueError(f"{path} has a header and no rows of numbers")
  if delimiter != ",":
    lines = [line.replace(",", ".") for line in lines]
  try:
    return np.loadtxt(
      lines, delimiter=delimiter, ndmin=2, dtype=np.float32, quotechar='"'
    )
  except ValueError as error:
    raise ValueError(
      f"{path}, rows counted from 1 after the header: {error}"
    ) from error


def _drops_index(header, body, rows, delimiter, path) -> bool:
  """Returns True if the first column is an index; raises if ambiguous."""
  if rows.shape[1] < 2:
    return False
  count = np.arange(len(rows))
  counts = any(np.array_equal(rows[:, 0], count + first) for first in (0, 1))
  if header is not None:
    return counts and header[0] in _UNNAMED
  is_whole = all(
    _cells(line, delimiter)[0].isdigit() for _, line in body[:_MIN_COUNTED]
  )
  others_are_whole = np.array_equal(rows[:, 1:], np.round(rows[:, 1:]))
  if counts and is_whole and len(rows) >= _MIN_COUNTED and not others_are_whole:
    raise ValueError(
      f"{path}: its first column counts the rows, as an index does; remove it "
      "(pandas: to_csv(index=False))"
    )
  return False
