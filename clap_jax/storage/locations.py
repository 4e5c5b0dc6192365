"""Defines local and bucket paths with the interface of pathlib.Path.

`at("runs/a")` is a pathlib.Path. `at("gs://bucket/runs/a")` has the same
methods as far as the package uses them; it is not an os.PathLike, so that it
cannot be mistaken for a local file.
"""

import fnmatch
import os
import pathlib
import re
from collections.abc import Iterator
from typing import NamedTuple

from clap_jax.storage import objects
from clap_jax.storage.objects import AddressError

_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{2,220}")
# Some libraries map a name with them to another object.
_REFUSED = re.compile(r"[\x00-\x1f\x7f#?]")


class Status(NamedTuple):
  """The result of `stat` for an object."""

  st_size: int
  st_mtime_ns: int


class ObjectPath:
  """The address of an object, or of a prefix treated as a folder.

  A bucket has no folders: a folder "exists" if there is an object below it, and
  `mkdir` does nothing. There are no links either.
  """

  __slots__ = ("_key", "_scheme")

  def __init__(self, address: str):
    """Parses an address.

    Raises:
      AddressError: the scheme is not gs:// or s3://, or there is no bucket.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None or match[1] not in objects.SCHEMES:
      raise AddressError(
        f"{address!r:.200} is not the address of an object; expected "
        "gs://BUCKET/NAME or s3://BUCKET/NAME"
      )
    parts = match[2].rstrip("/").split("/")
    if not _BUCKET.fullmatch(parts[0]):
      raise AddressError(
        f"{address!r:.200} has no bucket name of 3 characters or more"
      )
    if any(part in ("", ".", "..") for part in parts):
      raise AddressError(
        f"{address!r:.200} has an empty part, . or .. between its slashes"
      )
    if _REFUSED.search(match[2]):
      raise AddressError(
        f"{address!r:.200} has a control character, # or ?, which are "
        "not used in the names of objects here"
      )
    self._scheme = match[1]
    self._key = "/".join(parts)

  @property
  def scheme(self) -> str:
    return self._scheme

  @property
  def key(self) -> str:
    """Returns the bucket and the name in it, separated by a slash."""
    return self._key

  @property
  def bucket(self) -> str:
    return self._key.partition("/")[0]

  @property
  def name(self) -> str:
    """Returns the last part; empty for a bucket."""
    return self._key.rpartition("/")[2] if "/" in self._key else ""

  @property
  def stem(self) -> str:
    return pathlib.PurePosixPath(self.name).stem

  @property
  def suffix(self) -> str:
    return pathlib.PurePosixPath(self.name).suffix

  @property
  def parent(self) -> "ObjectPath":
    return self._with_key(self._key.rpartition("/")[0] or self._key)

  @property
  def parts(self) -> tuple[str, ...]:
    return f"{self._scheme}://{self.bucket}", *self._key.split("/")[1:]

  def _with_key(self, key: str) -> "ObjectPath":
    return ObjectPath(f"{self._scheme}://{key}")

  def __truediv__(self, other: str | os.PathLike) -> "ObjectPath":
    return self.joinpath(other)

  def joinpath(self, *others: str | os.PathLike) -> "ObjectPath":
    parts = [
      part
      for other in others
      for part in pathlib.PurePosixPath(_relative(other)).parts
    ]
    return self._with_key("/".join((self._key, *parts)))

  def with_name(self, name: str) -> "ObjectPath":
    return self.parent / name

  def with_suffix(self, suffix: str) -> "ObjectPath":
    return self.with_name(f"{self.stem}{suffix}")

  def absolute(self) -> "ObjectPath":
    return self

  def resolve(self) -> "ObjectPath":
    return self

  def is_relative_to(self, other: "ObjectPath") -> bool:
    return f"{self}/".startswith(f"{other}/")

  def as_posix(self) -> str:
    return str(self)

  def __str__(self) -> str:
    return f"{self._scheme}://{self._key}"

  def __repr__(self) -> str:
    return f"ObjectPath({str(self)!r})"

  def __eq__(self, other) -> bool:
    return isinstance(other, ObjectPath) and str(self) == str(other)

  def __lt__(self, other: "ObjectPath") -> bool:
    return str(self) < str(other)

  def __hash__(self) -> int:
    return hash(str(self))

  def exists(self) -> bool:
    return self.is_file() or self.is_dir()

  def is_file(self) -> bool:
    return self.info() is not None

  def is_dir(self) -> bool:
    return objects.holds_objects(self._scheme, self._key)

  def is_symlink(self) -> bool:
    return False

  def info(self) -> objects.Info | None:
    """Returns facts of the object; None if it does not exist."""
    if not self.name:
      return None
    return objects.find_info(self._scheme, self._key)

  def stat(self) -> Status:
    info = self.info()
    if info is None:
      raise objects.missing(self._scheme, self._key)
    return Status(info.size, info.modified_ns)

  def iterdir(self) -> Iterator["ObjectPath"]:
    for name, _ in objects.iter_names(self._scheme, self._key):
      yield self / name

  def folders(self) -> list["ObjectPath"]:
    """Lists the immediate subfolders by one listing."""
    return [
      self / name
      for name, is_folder in objects.iter_names(self._scheme, self._key)
      if is_folder
    ]

  def infos_below(self) -> dict[str, objects.Info]:
    """Returns facts of all objects below by relative name, in one listing."""
    prefix = f"{self._key}/"
    return {
      info.key[len(prefix) :]: info
      for info in objects.find_below(self._scheme, self._key)
    }

  def glob(self, pattern: str) -> Iterator["ObjectPath"]:
    """Yields objects, not folders, whose relative names match by part."""
    wanted = pattern.split("/")
    for name in self.infos_below():
      parts = name.split("/")
      if len(parts) == len(wanted) and all(
        map(fnmatch.fnmatchcase, parts, wanted)
      ):
        yield self / name

  def rglob(self, pattern: str) -> Iterator["ObjectPath"]:
    """Yields objects, not folders, at any depth, whose last part matches."""
    for name in self.infos_below():
      if fnmatch.fnmatchcase(name.rpartition("/")[2], pattern):
        yield self / name

  def mkdir(self, *, parents: bool = False, exist_ok: bool = False) -> None:
    """Does nothing, as objects need no folder."""

  def unlink(self, *, missing_ok: bool = False) -> None:
    try:
      objects.remove(self._scheme, self._key)
    except FileNotFoundError:
      if not missing_ok:
        raise


Location = pathlib.Path | ObjectPath
PathLike = str | os.PathLike | ObjectPath  # what `at` takes


def is_address(text: object) -> bool:
  """Returns True if a text has the form SCHEME://..., with any scheme."""
  return isinstance(text, str) and _ADDRESS.match(text) is not None


def is_object(path: object) -> bool:
  """Returns True if a path, or its text, is in a bucket."""
  return isinstance(path, ObjectPath) or (
    isinstance(path, str)
    and path.partition("://")[0] in objects.SCHEMES
    and "://" in path
  )


def at(
  path: "str | os.PathLike | ObjectPath", *parts: str | os.PathLike
) -> Location:
  """Returns the location of a text: a local path, gs:// or s3://.

  Raises:
    AddressError: the address has another scheme or no bucket.
  """
  if not isinstance(path, ObjectPath):
    text = os.fspath(path)
    if not is_address(text):
      return pathlib.Path(text, *parts)
    path = ObjectPath(text)
  return path.joinpath(*parts) if parts else path


def name_below(path: Location, folder: Location) -> str:
  """Returns the name of a path relative to a folder, with slashes."""
  below = pathlib.PurePosixPath(path.as_posix())
  return below.relative_to(folder.as_posix()).as_posix()


def version(path: pathlib.Path) -> tuple[int, int]:
  """Returns what changes with the content of a file: size and time in ns."""
  status = path.stat()
  return status.st_size, status.st_mtime_ns


def versions_below(folder: Location) -> dict[str, tuple[int | str, ...]]:
  """Returns the versions of all files below a folder by relative name.

  The version of an object is its size and fingerprint. They are sorted by path
  and cost one listing.
  """
  if isinstance(folder, ObjectPath):
    infos = folder.infos_below().items()
    found = {name: (info.size, *info.fingerprint) for name, info in infos}
  else:
    found = {
      path.relative_to(folder).as_posix(): version(path)
      for path in folder.rglob("*")
      if path.is_file()
    }
  return dict(sorted(found.items(), key=lambda each: each[0].split("/")))


def _relative(part: str | os.PathLike) -> str:
  text = os.fspath(part)
  if text.startswith("/") or ".." in text.split("/") or is_address(text):
    raise AddressError(
      f"{text!r:.200} is not a name below a folder of a bucket"
    )
  return text
