"""The files of annotations that somebody put into a folder."""

import pathlib
from collections.abc import Iterator

from clap_jax.storage import locations, text_tables, untrusted

MAX_FILE_BYTES = 1 << 30
_MAX_HASHED_BYTES = 1 << 50


def hash_file(path: pathlib.Path) -> str:
  """SHA-256 of a file's bytes, hexadecimal; of a video of any size."""
  return untrusted.hash_file(path, max_bytes=_MAX_HASHED_BYTES)


def load_json(path: locations.Location) -> object:
  """Parses a JSON file.

  Raises:
    ValueError: if it is not JSON, or an object has a key twice (of two videos
      of one id the first would be lost silently).
  """
  text = text_tables.read_text(path, max_bytes=MAX_FILE_BYTES)
  return untrusted.parse_json(text, name=path)


def load_lines(path: locations.Location) -> Iterator[tuple[str, str]]:
  """Yields (place, line) of the lines that are not blank.

  Raises:
    ValueError: if the file is not text.
  """
  for number, line in text_tables.read_lines(path, max_bytes=MAX_FILE_BYTES):
    yield f"{path.name} line {number}", line


def load_rows(
  path: pathlib.Path, *, columns: tuple[str, ...]
) -> Iterator[tuple[str, dict]]:
  """Yields (place, row) of a table with a header; others' columns as well.

  Raises:
    ValueError: if the header lacks one of `columns`, or it is not a table.
  """
  table = text_tables.read_table(path, columns=columns, required=columns)
  for row in table:
    yield f"{path.name} line {row.line}", row.cells


class SourceFiles:
  """The annotation files that somebody put into a folder."""

  def __init__(
    self,
    root: pathlib.Path,
    *,
    known: dict[str, str] | None = None,
    encoding: str | None = None,
  ):
    """Looks at a file or a folder of files.

    Args:
      root: the file or folder.
      known: SHA-256 of published files -> their names.
      encoding: of a table that is neither UTF-8 nor UTF-16; see
        `text_tables.read_text`.
    """
    self.root = pathlib.Path(root)
    self.encoding = encoding
    self._known = known or {}
    self.used: list[dict] = []
    if not self.root.exists():
      raise FileNotFoundError(f"no folder of annotations at {self.root}")

  def find(self, *patterns: str) -> pathlib.Path:
    """The one file that matches the first pattern that anything matches.

    Raises:
      FileNotFoundError: if nothing matches.
      ValueError: if several files match, or it is too large.
    """
    path = self.find_optional(*patterns)
    if path is None:
      raise FileNotFoundError(
        f"no annotation file {' or '.join(patterns)} under {self.root}; "
        "download it from the dataset's site and put it there"
      )
    return path

  def find_optional(self, *patterns: str) -> pathlib.Path | None:
    """`find`, or None when nothing matches."""
    for pattern in patterns:
      found = self.find_all(pattern)
      if len(found) > 1:
        names = ", ".join(str(p.relative_to(self._base())) for p in found[:5])
        raise ValueError(
          f"{len(found)} files match {pattern} under {self.root}: {names}; "
          "give the folder of one of them as the annotations"
        )
      if found:
        return self.use(found[0])
    return None

  def find_all(self, pattern: str) -> list[pathlib.Path]:
    """Every file of the pattern in order of its path; see `use`."""
    if self.root.is_file():
      return [self.root] if self.root.match(pattern) else []
    return sorted(p for p in self.root.rglob(pattern) if p.is_file())

  def _base(self):
    return self.root.parent if self.root.is_file() else self.root

  def use(self, path: pathlib.Path) -> pathlib.Path:
    """Notes that a file is read; returns its path."""
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
      raise ValueError(f"{path} is larger than {MAX_FILE_BYTES} bytes")
    name = path.relative_to(self._base()).as_posix()
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
