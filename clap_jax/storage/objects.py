"""Reads, writes and lists whole objects of gs:// and s3:// buckets.

Object writes are atomic, so that there are no partial files and no renames;
objects are never appended to. Requests with transient failures are retried a
bounded number of times, with random delays.
"""

import base64
import concurrent.futures
import contextlib
import dataclasses
import datetime
import errno
import functools
import importlib
import importlib.util
import logging
import os
import random
import re
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")

# Otherwise etils, through which Orbax lists and writes, takes TensorFlow for
# buckets wherever it is installed, whose endpoint and errors are others.
os.environ.setdefault("EPATH_USE_TF", "false")

# Scheme -> (module of fsspec's file system, extra of this package).
_PACKAGES = {"gs": ("gcsfs", "gcs"), "s3": ("s3fs", "s3")}
SCHEMES = tuple(_PACKAGES)
_NUM_ATTEMPTS = 4  # in addition to those of the file system itself
_NUM_REQUESTS_AT_ONCE = 16
_FIRST_WAIT_SEC = 0.5
_PASSING_CODES = frozenset((408, 429, *range(500, 600)))


class AddressError(ValueError):
  """Raised for an address that is invalid or cannot be used here."""


class ObjectStorageError(OSError):
  """Raised if the bucket refuses a request or does not answer in time."""


@dataclasses.dataclass(frozen=True)
class Info:
  """An object of a listing."""

  key: str  # bucket/name
  size: int
  modified_ns: int
  # Of the content where the store keeps one, else of the version.
  fingerprint: tuple[str, str]


def check_package(scheme: str) -> None:
  """Raises an AddressError if the scheme's package is not installed."""
  if scheme not in _PACKAGES:
    raise AddressError(
      f"{scheme}:// is not supported; expected a local path, "
      f"{' or '.join(f'{name}://' for name in SCHEMES)}"
    )
  module, extra = _PACKAGES[scheme]
  if importlib.util.find_spec(module) is None:
    raise AddressError(
      f"{scheme}:// needs the package {module}, which is not installed: "
      f"pip install 'clap_jax[{extra}]'"
    )


@functools.cache
def file_system(scheme: str) -> Any:
  """Returns fsspec's file system of a scheme, without listing cache."""
  check_package(scheme)
  if scheme == "gs":
    # Otherwise each new bucket is asked for its kind over gRPC, which waits a
    # minute where there is no such service.
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
  # What it reports of a request reaches the caller as an error.
  logging.getLogger(_PACKAGES[scheme][0]).setLevel(logging.CRITICAL)
  fsspec = importlib.import_module("fsspec")
  # For Orbax as well, whose listings would have removed objects.
  for protocol in (scheme, "gcs"):
    settings = fsspec.config.conf.setdefault(protocol, {})
    settings.setdefault("use_listings_cache", False)
  return fsspec.filesystem(scheme)


def read(scheme: str, key: str, start: int = 0, end: int | None = None):
  """Returns the bytes [start, end) of an object.

  Raises:
    FileNotFoundError: the object does not exist.
    ObjectStorageError: the object cannot be read.
  """
  files = file_system(scheme)
  if end is not None and end <= start:
    return b""

  def once():
    content = files.cat_file(key, start=start or None, end=end)
    if end is not None and len(content) > end - start:
      raise ConnectionError(f"{len(content)} bytes received for {end - start}")
    return content

  return _retried(f"{scheme}://{key}", once)


def read_start(scheme: str, key: str, num_bytes: int) -> bytes:
  """Returns the first bytes of an object, or all of a shorter one.

  Takes one request unless the object is empty.

  Raises:
    FileNotFoundError: the object does not exist.
    ObjectStorageError: the object cannot be read.
  """
  try:
    return read(scheme, key, 0, num_bytes)
  except ObjectStorageError as error:
    # An empty object has no first byte: that range cannot be satisfied.
    if error.__cause__ is not None and _code_of(error.__cause__) == 416:
      return b""
    raise


def download(scheme: str, key: str, file, *, size: int) -> None:
  """Downloads an object of known size to an open file, in chunks.

  Raises:
    FileNotFoundError: the object does not exist.
    ObjectStorageError: the object cannot be read, or its size changed.
  """
  piece = 64 << 20
  for start in range(0, size, piece):
    end = min(start + piece, size)
    content = read(scheme, key, start, end)
    if len(content) != end - start:
      raise ObjectStorageError(
        f"{scheme}://{key} changed while it was read: it had {size} bytes"
      )
    file.write(content)


def write(scheme: str, key: str, content: bytes) -> None:
  """Writes an object atomically; replaces an existing one."""
  files = file_system(scheme)
  _retried(f"{scheme}://{key}", lambda: files.pipe_file(key, content))


def upload(scheme: str, key: str, path: str) -> None:
  """Uploads a local file to an object."""
  files = file_system(scheme)
  _retried(f"{scheme}://{key}", lambda: files.put_file(path, key))


def create(scheme: str, key: str, content: bytes) -> None:
  """Writes an object that must not exist yet.

  Raises:
    FileExistsError: it exists with other content. With equal content it counts
      as written: the answer to an earlier try may have been lost.
  """
  files = file_system(scheme)
  try:
    _retried(
      f"{scheme}://{key}",
      lambda: files.pipe_file(key, content, mode="create"),
    )
  except FileExistsError:
    if read(scheme, key) != content:
      raise


def find_info(scheme: str, key: str) -> Info | None:
  """Returns facts of an object; None if it does not exist."""
  files = file_system(scheme)
  try:
    entry = _retried(f"{scheme}://{key}", lambda: files.info(key))
  except FileNotFoundError:
    return None
  return _to_info(entry) if entry["type"] == "file" else None


def holds_objects(scheme: str, key: str) -> bool:
  """Returns True if there are objects below a name."""
  if "/" in key:  # not of a bucket, whose facts many may not ask for
    files = file_system(scheme)
    try:
      entry = _retried(f"{scheme}://{key}", lambda: files.info(key))
    except FileNotFoundError:
      return False
    if entry["type"] == "directory":  # found by listing one object alone
      return True
  return next(iter_names(scheme, key), None) is not None


def iter_names(scheme: str, key: str) -> Iterator[tuple[str, bool]]:
  """Yields (name, is folder) of the entries directly below a name."""
  files = file_system(scheme)
  try:
    entries = _retried(
      f"{scheme}://{key}", lambda: files.ls(key, detail=True, refresh=True)
    )
  except FileNotFoundError:
    return
  prefix = f"{key.rstrip('/')}/"
  for entry in sorted(entries, key=lambda entry: entry["name"]):
    name = entry["name"].rstrip("/")
    if name.startswith(prefix) and "/" not in name[len(prefix) :]:
      yield name[len(prefix) :], entry["type"] == "directory"


def find_below(scheme: str, key: str) -> list[Info]:
  """Returns facts of all objects below a name, at any depth, sorted."""
  files = file_system(scheme)
  prefix = f"{key.rstrip('/')}/"
  try:
    entries = _retried(
      f"{scheme}://{key}", lambda: files.find(key, detail=True)
    )
  except FileNotFoundError:
    return []
  return [
    _to_info(entry)
    for name, entry in sorted(entries.items())
    if name.startswith(prefix) and entry["type"] == "file"
  ]


def remove(scheme: str, key: str) -> None:
  """Removes an object.

  Raises:
    FileNotFoundError: the object does not exist.
  """
  if find_info(scheme, key) is None:
    raise missing(scheme, key)
  remove_all(scheme, [key])


def remove_all(scheme: str, keys: list[str]) -> None:
  """Removes objects; ignores missing ones."""
  files = file_system(scheme)

  def remove_one(key: str) -> None:
    # A request whose answer was lost may have removed it.
    with contextlib.suppress(FileNotFoundError):
      _retried(f"{scheme}://{key}", lambda: files.rm_file(key))

  with concurrent.futures.ThreadPoolExecutor(_NUM_REQUESTS_AT_ONCE) as pool:
    list(pool.map(remove_one, keys))


def copy(scheme: str, source: str, target: str) -> None:
  """Copies an object within the store, which moves no bytes here."""
  files = file_system(scheme)
  _retried(f"{scheme}://{target}", lambda: files.cp_file(source, target))


def copy_all(scheme: str, source: str, target: str) -> None:
  """Copies all objects below a name to another, within the store."""

  def copy_one(info: Info) -> None:
    copy(scheme, info.key, f"{target}/{info.key[len(source) + 1 :]}")

  with concurrent.futures.ThreadPoolExecutor(_NUM_REQUESTS_AT_ONCE) as pool:
    list(pool.map(copy_one, find_below(scheme, source)))


def check_bucket(scheme: str, bucket: str) -> None:
  """Checks in advance that a bucket exists.

  Permission to write objects does not imply permission to query the bucket: a
  refusal is therefore ignored.

  Raises:
    AddressError: the bucket does not exist, or the package is missing.
  """
  files = file_system(scheme)
  try:
    _retried(f"{scheme}://{bucket}", lambda: files.info(bucket))
  except PermissionError:
    return
  except FileNotFoundError as error:
    raise AddressError(
      f"{scheme}://{bucket}: there is no such bucket, or you may not "
      "read it; create it first, and check the credentials"
    ) from error


def _retried(address: str, function: Callable[[], T]) -> T:
  """Calls `function`, retrying transient failures; raises OSErrors."""
  for attempt in range(_NUM_ATTEMPTS):
    if attempt:
      # Randomized, so that the workers of a pod do not retry at once.
      wait_sec = _FIRST_WAIT_SEC * 2 ** (attempt - 1)
      time.sleep(wait_sec * (0.5 + random.random()))
    try:
      return function()
    except FileExistsError as error:
      raise FileExistsError(
        errno.EEXIST, "the object already exists", address
      ) from error
    except FileNotFoundError as error:
      raise FileNotFoundError(
        errno.ENOENT, "there is no such object", address
      ) from error
    except Exception as error:
      code = _code_of(error)
      if code in (401, 403) or isinstance(error, PermissionError):
        raise PermissionError(
          errno.EACCES, f"access is refused ({_brief(error)})", address
        ) from error
      if code == 412:  # of a write that must not replace anything
        raise FileExistsError(
          errno.EEXIST, "the object already exists", address
        ) from error
      if not _is_passing(error, code) or attempt == _NUM_ATTEMPTS - 1:
        raise ObjectStorageError(
          f"{address}: {_brief(error)}; requests are repeated "
          f"{_NUM_ATTEMPTS} times"
        ) from error
  raise AssertionError("unreachable")


def _code_of(error: BaseException) -> int | None:
  """Returns the HTTP status of an error of gcsfs, s3fs or aiohttp."""
  for name in ("code", "status"):
    if str(getattr(error, name, "")).isdigit():
      return int(getattr(error, name))
  cause = error.__cause__
  response = getattr(error, "response", None) or getattr(
    cause, "response", None
  )
  if isinstance(response, dict):
    return response.get("ResponseMetadata", {}).get("HTTPStatusCode")
  return None


def is_refusal(error: Exception) -> bool:
  """Returns True if another library's error is a refused bucket request."""
  module = type(error).__module__.partition(".")[0]
  return module in ("gcsfs", "s3fs", "aiohttp", "botocore", "google")


def _is_passing(error: Exception, code: int | None) -> bool:
  if code is not None:
    return code in _PASSING_CODES
  kinds = (ConnectionError, TimeoutError)
  names = {kind.__name__ for kind in type(error).__mro__}
  # Of aiohttp, botocore and gcsfs, none of which need be installed.
  passing = {
    "ClientError",
    "ClientPayloadError",
    "ChecksumError",
    "FSTimeoutError",
    "HTTPClientError",
    "IncompleteReadError",
    "ResponseStreamingError",
    "ServerDisconnectedError",
  }
  return isinstance(error, kinds) or bool(names & passing)


def _brief(error: Exception) -> str:
  return f"{type(error).__name__}: {error}"[:300]


def missing(scheme: str, key: str) -> FileNotFoundError:
  """Makes the error for a missing object."""
  return FileNotFoundError(
    errno.ENOENT, "there is no such object", f"{scheme}://{key}"
  )


def _to_info(entry: dict) -> Info:
  modified = entry.get("mtime") or entry.get("LastModified")
  is_time = isinstance(modified, datetime.datetime)
  modified_ns = int(modified.timestamp() * 1e9) if is_time else 0
  return Info(
    entry["name"].rstrip("/"),
    int(entry["size"]),
    modified_ns,
    _fingerprint(entry) or ("modified", str(modified_ns)),
  )


def _fingerprint(entry: dict) -> tuple[str, str] | None:
  """Returns ("md5", hexadecimal) if the store has it, else its version."""
  if entry.get("md5Hash"):
    return "md5", base64.b64decode(entry["md5Hash"]).hex()
  tag = str(entry.get("ETag", "")).strip('"')
  if re.fullmatch(r"[0-9a-f]{32}", tag):  # S3, of what was sent in one piece
    return "md5", tag
  if tag:
    return "etag", tag
  if entry.get("generation"):
    return "generation", str(entry["generation"])
  return None
