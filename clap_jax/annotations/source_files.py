"""Finds and reads user-provided annotation files."""

import functools
import pathlib
from collections.abc import Iterator

from clap_jax.storage import locations, text_tables, untrusted

MAX_FILE_BYTES = 1 << 30
_MAX_HASHED_BYTES = 1 << 50


def hash_file(path: locations.PathLike) -> str:
  """Returns the hexadecimal SHA-256 of a file of any size."""
  return untrusted.hash_file(path, max_bytes=_MAX_HASHED_BYTES)


def load_json(path: locations.Location) -> object:
  """Parses a JSON file.

  Raises:
    ValueError: it is not JSON, or an object has a key twice (of two videos with
      one id the first would be lost silently).
  """
  text = text_tables.read_text(path, max_bytes=MAX_FILE_BYTES)
  return untrusted.parse_json(text, name=path)


def load_lines(path: locations.Location) -> Iterator[tuple[str, str]]:
  """Yields (location, line) of the non-blank lines.

  Raises:
    ValueError: the file is not text.
  """
  for number, line in text_tables.read_lines(path, max_bytes=MAX_FILE_BYTES):
    yield f"{path.name} line {number}", line


def load_rows(
  path: locations.Location, *, columns: tuple[str, ...]
) -> Iterator[tuple[str, dict]]:
  """Yields (location, row) of a table with a header, with all columns.

  Raises:
    ValueError: the header lacks one of `columns`, or it is not a table.
  """
  table = text_tables.read_table(path, columns=columns, required=columns)
  for row in table:
    yield f"{path.name} line {row.line}", row.cells


class SourceFiles:
  """User-provided annotation files."""

  def __init__(
    self,
    root: locations.PathLike,
    *,
    known: dict[str, str] | None = None,
    encoding: str | None = None,
  ):
    """Lists a file or a folder of files.

    Args:
      known: names of published files by SHA-256.
      encoding: encoding of a table that is neither UTF-8 nor UTF-16; see
        `text_tables.read_text`.
    """
    self.root = locations.at(root)
    self.encoding = encoding
    self._known = known or {}
    self.used: list[dict] = []
    self._is_file = self.root.is_file()
    if not self._is_file and not self.root.is_dir():
      raise FileNotFoundError(
        f"annotations: there is no file or folder {self.root}"
      )

  def find(self, *patterns: str) -> locations.Location:
    """Returns the only file that matches the first matching pattern.

    Raises:
      FileNotFoundError: no file matches.
      ValueError: several files match, or the file is too large.
    """
    path = self.find_optional(*patterns)
    if path is None:
      raise FileNotFoundError(
        f"no annotation file {' or '.join(patterns)} under {self.root}; "
        "download it from the dataset's site and save it there"
      )
    return path

  def find_optional(self, *patterns: str) -> locations.Location | None:
    """Returns `find`, or None if no file matches."""
    for pattern in patterns:
      found = self.find_all(pattern)
      if len(found) > 1:
        names = ", ".join(
          locations.name_below(p, self._base()) for p in found[:5]
        )
        raise ValueError(
          f"{len(found)} files match {pattern} under {self.root}: {names}; "
          "give the folder of one of them as the annotations"
        )
      if found:
        return self.use(found[0])
    return None

  def find_all(self, pattern: str) -> list[locations.Location]:
    """Returns every file of the pattern, sorted by path; see `use`."""
    if self._is_file:
      is_named = pathlib.PurePosixPath(str(self.root)).match(pattern)
      return [self.root] if is_named else []
    return [
      self.root / name
      for name in self._names
      if pathlib.PurePosixPath(name).match(pattern)
    ]

  @functools.cached_property
  def _names(self) -> tuple[str, ...]:
    return tuple(locations.versions_below(self.root))

  def _base(self):
    return self.root.parent if self._is_file else self.root

  def use(self, path: locations.Location) -> locations.Location:
    """Records that a file is read; returns its path."""
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
      raise ValueError(f"{path} is larger than {MAX_FILE_BYTES} bytes")
    name = locations.name_below(path, self._base())
    if all(note["file"] != name for note in self.used):
      digest = hash_file(path)
      self.used.append(
        {
          "file": name,
          "bytes": size,
          "sha256": digest,
          "published_as": self._known.get(digest),
        }
      )
    return path
