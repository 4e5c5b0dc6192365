"""Reads text and CSV or TSV tables in common encodings.

Byte order marks, UTF-16, every kind of line end, comma, semicolon, tab or bar
between the cells, a line `sep=;` before the header, quotes, decimal commas,
clock times, and header names in any case are supported here for all readers.
Ambiguous content is refused with the file, the line and the alternatives.
"""

import codecs
import csv
import dataclasses
import io
import math
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence

from clap_jax.storage import untrusted
from clap_jax.storage.locations import PathLike

DELIMITERS = ("\t", ";", ",", "|")
_DELIMITER_NAMES = {"\t": "tab", ";": "semicolon", ",": "comma", "|": "bar"}
_BINARY = (
  (b"PK\x03\x04", "an Excel (.xlsx) or other zip file"),
  (b"\xd0\xcf\x11\xe0", "an old Excel (.xls) file"),
)
_SEP_LINE = re.compile(r'"?sep=(.)"?[ ,;\t]*', re.IGNORECASE)
_LINE_END = re.compile(r"\r\n|\r|\n")
_UNIT = re.compile(r"[(\[]\s*([a-z]+)\.?\s*[)\]]$")
_UNIT_NAMES = {
  **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), ""),
  **dict.fromkeys(("ms", "msec", "millisecond", "milliseconds"), "ms"),
  **dict.fromkeys(("frame", "frames"), "frame"),
}
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+")
_CLOCK = re.compile(r"([+-]?)(?:(\d+):)?(\d+):(\d{1,2}(?:[.,]\d*)?)")
_UNITS_OF_TIME = re.compile(
  r"(?:(\d+)\s*h(?:ours?|rs?)?\s*)?(?:(\d+)\s*m(?:in(?:ute)?s?)?\s*)?"
  r"(?:(\d+(?:[.,]\d*)?)\s*s(?:ec(?:ond)?s?)?)?",
  re.IGNORECASE,
)
_FRAME_CLOCK = re.compile(r"\d+:\d+:\d+[:;]\d+")


class TableError(ValueError):
  """Raised for an unreadable table; names the file and location."""


class EncodingError(TableError):
  """Raised for a text with bytes of another encoding."""


@dataclasses.dataclass(frozen=True)
class Row:
  """A non-empty row.

  Attributes:
    line: number of the row's last line in the file, from 1.
    cells: stripped text by column; requested columns have the requested names,
      others their own.
    surplus: non-empty cells beyond the header.
  """

  line: int
  cells: dict[str, str]
  surplus: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Table:
  """A table with a header; rows are parsed during iteration."""

  name: str
  header: tuple[str, ...]  # as in the file
  columns: frozenset[str]  # those asked for that are there
  delimiter: str
  _keys: tuple[str, ...]
  _text: str
  _num_skipped: int  # lines before the header

  @property
  def decimal_comma(self) -> bool:
    """Returns True if "1,5" is a number: the delimiter is not a comma."""
    return self.delimiter != ","

  def __iter__(self) -> Iterator[Row]:
    rows = parse_rows(
      self._text,
      name=self.name,
      delimiter=self.delimiter,
      first_line=self._num_skipped + 1,
    )
    next(rows)  # the header
    for line, cells in rows:
      surplus = tuple(filter(None, cells[len(self._keys) :]))
      filled = [*cells, *[""] * (len(self._keys) - len(cells))]
      named = dict(zip(self._keys, filled, strict=False))
      yield Row(line, named, surplus)


def read_text(
  path: PathLike,
  *,
  folder: PathLike | None = None,
  encoding: str | None = None,
  max_bytes: int = untrusted.DEFAULT_MAX_BYTES,
) -> str:
  """Returns the text of a file, by default UTF-8 or UTF-16 with a BOM.

  Args:
    path: the file; see `untrusted.open_file`.
    folder: folder that must contain it.
    encoding: encoding of the bytes, such as cp1252; None for the default.
    max_bytes: the largest size accepted.

  Raises:
    UntrustedFileError: not a file that can be opened safely.
    EncodingError: the bytes have another encoding; names the line.
    TableError: it is a spreadsheet, UTF-16 without a BOM, or the encoding is
      unknown.
    OSError: the file cannot be opened.
  """
  content = untrusted.read_bytes(path, folder=folder, max_bytes=max_bytes)
  for magic, kind in _BINARY:
    if content.startswith(magic):
      raise TableError(
        f"{path} is {kind}, not text; open it and save it as CSV (UTF-8)"
      )
  if encoding is None:
    try:
      text = untrusted.decode_text(content, name=path)
    except untrusted.UntrustedFileError as error:
      raise EncodingError(str(error)) from error
  else:
    text = _decode_as(content, encoding, path)
  if "\0" in text[:4096]:
    raise TableError(
      f"{path} holds NUL characters: UTF-16 without a byte order mark, or not "
      "text; save it as UTF-8"
    )
  return text


def _decode_as(content: bytes, encoding: str, path: PathLike) -> str:
  try:
    codecs.lookup(encoding)
    return content.decode(encoding).removeprefix("\ufeff")
  except LookupError as error:
    raise TableError(
      f"unknown encoding {encoding!r}; expected a name such as utf-8, cp1252 "
      "or shift_jis"
    ) from error
  except UnicodeDecodeError as error:
    line = content.count(b"\n", 0, error.start) + 1
    raise EncodingError(f"{path}, line {line}: not {encoding} text") from error


def split_lines(text: str) -> list[str]:
  """Splits a text into lines at any kind of line end."""
  return _LINE_END.split(text)


def read_lines(path: PathLike, **options) -> list[tuple[int, str]]:
  """Returns (number from 1, stripped line) of the non-blank lines.

  Options and errors as `read_text`.
  """
  lines = enumerate(split_lines(read_text(path, **options)), 1)
  return [(number, line.strip()) for number, line in lines if line.strip()]


def fold(name: str) -> str:
  """Normalizes a column name: "Start (s)" and "start_s" are equal.

  Case, spaces, underscores and hyphens are ignored. A unit in brackets follows
  the name; seconds are omitted.
  """
  name = unicodedata.normalize("NFKC", name).strip().casefold()
  unit = _UNIT.search(name)
  if unit and unit[1] in _UNIT_NAMES:
    name = name[: unit.start()] + _UNIT_NAMES[unit[1]]
  return re.sub(r"[\s_-]+", "", name)


def read_table(
  path: PathLike,
  *,
  columns: Mapping[str, Sequence[str]] | Sequence[str],
  required: Sequence[str] = (),
  folder: PathLike | None = None,
  encoding: str | None = None,
) -> Table:
  """Reads a table with a header.

  Arguments and errors as `parse_table` and `read_text`.
  """
  text = read_text(path, folder=folder, encoding=encoding)
  return parse_table(text, name=path, columns=columns, required=required)


def parse_table(
  text: str,
  *,
  name: PathLike,
  columns: Mapping[str, Sequence[str]] | Sequence[str],
  required: Sequence[str] = (),
) -> Table:
  """Finds the delimiter and the columns of a table with a header.

  Args:
    text: the whole file.
    name: name of the file, for messages.
    columns: names of the relevant columns, with synonyms. A column of the exact
      name takes precedence over a synonym.

  Raises:
    TableError: there is no header, a required column is missing, or two columns
      have synonymous names.
  """
  if not isinstance(columns, Mapping):
    columns = {column: () for column in columns}
  delimiter, text, num_skipped = split_preamble(text)
  known = {fold(n) for key, names in columns.items() for n in (key, *names)}
  if delimiter is None:
    first = next(filter(str.strip, split_lines(text)), "")
    delimiter = sniff_delimiter(first, known=known)
  rows = parse_rows(text, name=name, delimiter=delimiter)
  _, header = next(rows, (0, []))
  if not any(header):
    raise TableError(f"{name} is empty; expected a header and rows")
  keys = _keys_of(header, columns, name)
  missing = [column for column in required if column not in keys]
  if missing:
    raise TableError(
      f"{name} has the header {header} (cells separated by a "
      f"{_DELIMITER_NAMES.get(delimiter, repr(delimiter))}); it lacks "
      + "; ".join(_accepted(column, columns[column]) for column in missing)
    )
  return Table(
    name=str(name),
    header=tuple(header),
    columns=frozenset(keys) & frozenset(columns),
    delimiter=delimiter,
    _keys=keys,
    _text=text,
    _num_skipped=num_skipped,
  )


def _accepted(column: str, names: Sequence[str]) -> str:
  others = f" (or {', '.join(names)})" if names else ""
  return f"a column {column!r}{others}"


def split_preamble(text: str) -> tuple[str | None, str, int]:
  """Returns (delimiter, text, skipped lines) after Excel's `sep=;` line."""
  first, end, rest = text.partition("\n")
  match = _SEP_LINE.fullmatch(first.rstrip("\r"))
  if match is None or not end:
    return None, text, 0
  return match[1], rest, 1


def _keys_of(header, columns, name) -> tuple[str, ...]:
  """Returns the key of each column in `Row.cells`."""
  folded = [fold(cell) for cell in header]
  keys = list(header)
  for column, names in columns.items():
    for listed in ([column], names):
      accepted = {fold(each) for each in listed}
      found = [i for i, each in enumerate(folded) if each in accepted]
      if len(found) > 1:
        raise TableError(
          f"{name} has several columns that mean {column!r}: "
          f"{[header[i] for i in found]}; rename the one to use to "
          f"{column!r} and the others to something else"
        )
      if found:
        keys[found[0]] = column
        break
  return tuple(keys)


def sniff_delimiter(line: str, *, known: frozenset[str] | set[str]) -> str:
  """Detects the delimiter of a header or of a row of numbers.

  Picks the one with which most cells are known names; ties are resolved as tab,
  semicolon, comma, since a decimal comma is not a delimiter.
  """

  def num_known(delimiter):
    try:
      cells = next(_reader([line], delimiter), [])
    except csv.Error:  # reported with its line by who reads the rows
      return 0
    return sum(fold(cell) in known for cell in cells)

  present = [d for d in DELIMITERS if d in line] or [","]
  return max(present, key=num_known)  # the first of equal ones


def _reader(lines, delimiter, *, quotes=True):
  return csv.reader(
    lines,
    delimiter=delimiter,
    skipinitialspace=True,
    quoting=csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE,
  )


def parse_rows(
  text: str,
  *,
  name: PathLike,
  delimiter: str,
  first_line: int = 1,
  quotes: bool = True,
) -> Iterator[tuple[int, list[str]]]:
  """Yields (line number, stripped cells) of the non-empty rows.

  Args:
    text: content of the file from line `first_line` on.
    name: name of the file, for messages.
    first_line: number of the text's first line.
    quotes: whether quoted cells may hold delimiters and line ends.

  Raises:
    TableError: a quote is not closed.
  """
  read: list[str] = []  # lines of the row that is parsed

  def lines():
    for line in io.StringIO(text, newline=""):
      read.append(line)
      yield line

  rows = _reader(lines(), delimiter, quotes=quotes)
  start = first_line
  try:
    for cells in rows:
      end = rows.line_num + first_line - 1
      if quotes and any('"' in line for line in read):
        _check_closed(read, delimiter)
      read.clear()
      start = end + 1
      stripped = [cell.strip() for cell in cells]
      if any(stripped):
        yield end, stripped
  except csv.Error as error:
    raise TableError(
      f"{name}, line {start}: {error}; a cell with quotes is written "
      '"so ""quoted"" inside"'
    ) from error


def _check_closed(lines: list[str], delimiter: str) -> None:
  """Raises csv.Error if a quoted cell would extend over the next line."""
  lines = [*lines[:-1], lines[-1] + "\n", "end"]
  if len(list(_reader(lines, delimiter))) == 1:
    raise csv.Error("a quote is not closed")


def seconds(value: object, *, decimal_comma: bool = False) -> float:
  """Converts a number, "12.5", "1:02.5" or "1m 2.5s" to seconds.

  Args:
    value: a number, or text of a number or a clock time.
    decimal_comma: whether "1,5" means one and a half.

  Raises:
    ValueError: the value is neither; the message is the reason.
  """
  shown = repr(str(value)[:40])
  if isinstance(value, bool) or not isinstance(value, (int, float, str)):
    raise ValueError(f"not a number of seconds: {shown}")
  try:
    number = _parse_seconds(value, decimal_comma, shown)
  except OverflowError:
    number = math.inf
  if not math.isfinite(number):
    raise ValueError(f"not a finite number of seconds: {shown}")
  return number


def _parse_seconds(value, decimal_comma, shown) -> float:
  if not isinstance(value, str):
    return float(value)
  text = value.strip()
  if _NUMBER.fullmatch(text):
    return float(text)
  if _DECIMAL_COMMA.fullmatch(text):
    if decimal_comma:
      return float(text.replace(",", "."))
    raise ValueError(f"a decimal comma in {shown}; use a point")
  if text.lower().lstrip("+-") in ("nan", "inf", "infinity"):
    return math.nan
  clock = _CLOCK.fullmatch(text)
  units = _UNITS_OF_TIME.fullmatch(text)
  if units is not None and any(units.groups()):
    hours, minutes, rest = (
      float((part or "0").replace(",", ".")) for part in units.groups()
    )
    return hours * 3600 + minutes * 60 + rest
  if clock is None:
    if _FRAME_CLOCK.fullmatch(text):
      raise ValueError(
        f"a timecode that ends in frames: {shown}; write hh:mm:ss.mmm"
      )
    raise ValueError(
      f"not a number of seconds or hh:mm:ss.mmm: {shown}"
      if text
      else "no number of seconds: the cell is empty"
    )
  sign, hours, minutes, rest = clock.groups()
  rest = float(rest.replace(",", "."))
  if rest >= 60 or (hours is not None and int(minutes) >= 60):
    raise ValueError(f"not a clock time: {shown} has 60 or more")
  total = rest + int(minutes) * 60 + int(hours or 0) * 3600
  return -total if sign == "-" else total
