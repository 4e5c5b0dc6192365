"""Seals checkpoints: a manifest of every file, written last.

A checkpoint without a manifest was interrupted; one whose files differ from its
manifest is damaged. Orbax itself restores flipped bits silently.

CRC32C alone is insufficient: Orbax's files end with their own CRC32C, so that
all intact ones have the same checksum, and swapped files would go unnoticed.
Hence SHA-256 is stored as well.

Objects in a bucket are not read back: a listing has their sizes and a
fingerprint of their content, an MD5 or the version.
"""

import hashlib
import math
import os
from collections.abc import Mapping
from typing import Any

import crc32c
import numpy as np
import orjson

from clap_jax.storage import locations, objects, output, untrusted
from clap_jax.storage.locations import ObjectPath

MANIFEST_FILE = "manifest.json"
_CHUNK_BYTES = 1 << 22
_MAX_FILE_BYTES = 1 << 44
_MAX_MANIFEST_BYTES = 1 << 28
# Of what the arrays take to what their files have: those of an optimizer's
# first steps are zeros, but never all of a checkpoint.
_MAX_RATIO = 100
_FREE_BYTES = 64 << 20
_MAX_DIMENSIONS = 32
_MAX_TYPE_NAME = 20


class DamagedCheckpointError(RuntimeError):
  """Raised for a checkpoint whose bytes differ from those written."""


def write_manifest(
  directory: locations.Location, *, tree: Mapping[str, Any], metadata: Mapping
) -> None:
  """Records every file below `directory`, after syncing it to disk.

  Args:
    directory: a complete checkpoint without a manifest.
    tree: name of each array -> [shape, dtype].
    metadata: JSON values to store with it.
  """
  if isinstance(directory, ObjectPath):
    files = {
      name: _listed(info) for name, info in directory.infos_below().items()
    }
  else:
    files = {
      name: _fingerprint(directory, name, sync=True)
      for name in _files_below(directory)
    }
  # The manifest is the seal and comes last. Written before its files are on the
  # disk, it could survive a power cut that they do not. So must the names: a
  # power cut may lose those of an unsynced folder.
  for folder in (*_folders_below(directory), directory, directory.parent):
    output.sync_folder(folder)
  body = {"files": files, "tree": dict(tree), "metadata": dict(metadata)}
  record = orjson.dumps({"body": body, "crc32c": _body_crc32c(body)})
  output.write_bytes(directory / MANIFEST_FILE, record, folder=directory)


def read_manifest(directory: locations.Location) -> dict[str, Any]:
  """Reads the manifest's `files`, `tree` and `metadata`.

  Raises:
    DamagedCheckpointError: the manifest itself is damaged.
  """
  path = directory / MANIFEST_FILE
  try:
    record = orjson.loads(
      untrusted.read_bytes(
        MANIFEST_FILE, folder=directory, max_bytes=_MAX_MANIFEST_BYTES
      )
    )
    body, checksum = record["body"], record["crc32c"]
    is_sane = _is_sane(body)
  except (
    AttributeError,
    KeyError,
    TypeError,
    ValueError,
  ) as error:
    raise DamagedCheckpointError(f"{path} cannot be read: {error}") from None
  if _body_crc32c(body) != checksum:
    raise DamagedCheckpointError(f"{path} does not agree with its checksum")
  if not is_sane:
    raise DamagedCheckpointError(f"{path} describes no files and arrays")
  return body


def _is_sane(body: Mapping[str, Any]) -> bool:
  """Returns True if a manifest validly describes files and arrays."""
  return (
    all(
      isinstance(entry, dict) and type(entry.get("size")) is int
      for entry in body["files"].values()
    )
    and all(
      isinstance(shape, list)
      and len(shape) <= _MAX_DIMENSIONS
      and all(type(side) is int and 0 <= side < 1 << 40 for side in shape)
      and _itemsize(dtype)
      for shape, dtype in body["tree"].values()
    )
    and isinstance(body["metadata"], dict)
  )


def _itemsize(dtype: Any) -> int:
  """Returns the item size of a dtype in bytes; 0 for anything else."""
  if not isinstance(dtype, str) or len(dtype) > _MAX_TYPE_NAME:
    return 0
  try:
    made = np.dtype(dtype)  # bfloat16 and its like are added by jax
  except (TypeError, ValueError, SyntaxError):
    return 0
  return 0 if made.kind not in "biufcV" or made.fields else made.itemsize


def has_manifest(directory: locations.Location) -> bool:
  path = directory / MANIFEST_FILE
  # A bucket is asked once, where exists() would look for a folder too.
  return path.is_file() if isinstance(path, ObjectPath) else path.exists()


def verify(directory: locations.Location) -> dict[str, Any]:
  """Reads every file and returns the manifest.

  Raises:
    DamagedCheckpointError: names the first file that is missing, unexpected, or
      differs in size or content.
  """
  body = read_manifest(directory)
  infos = None
  if isinstance(directory, ObjectPath):
    infos = directory.infos_below()
  for name, expected in body["files"].items():
    if infos is not None and name not in infos:
      raise DamagedCheckpointError(f"{directory / name} is missing")
    try:
      if infos is not None and "sha256" not in expected:
        found = _listed(infos[name])
      else:  # of a local run, wherever it lies now
        found = _fingerprint(
          directory, name, size=expected["size"], like=expected
        )
    except FileNotFoundError:
      raise DamagedCheckpointError(f"{directory / name} is missing") from None
    except (untrusted.UntrustedFileError, OSError) as error:
      raise DamagedCheckpointError(f"{directory / name}: {error}") from error
    if found != expected:
      raise DamagedCheckpointError(
        f"{directory / name} is {found}, was {expected}"
      )
  present = _files_below(directory) if infos is None else infos
  strangers = sorted(set(present) - set(body["files"]) - {MANIFEST_FILE})
  if strangers:
    raise DamagedCheckpointError(f"{directory} holds foreign files {strangers}")
  size = sum(entry["size"] for entry in body["files"].values())
  claimed = sum(
    math.prod(shape) * _itemsize(dtype)
    for shape, dtype in body["tree"].values()
  )
  if claimed > max(_MAX_RATIO * size, _FREE_BYTES):
    raise DamagedCheckpointError(
      f"{directory} has files of {size} bytes for arrays of {claimed}"
    )
  return body


def _files_below(directory: locations.Location) -> list[str]:
  """Returns all entries but folders, including links, pipes and devices."""
  return sorted(
    locations.name_below(path, directory)
    for path in directory.rglob("*")
    if path.is_symlink() or not path.is_dir()
  )


def _folders_below(directory: locations.Location) -> list[locations.Location]:
  return sorted(path for path in directory.rglob("*") if path.is_dir())


def _fingerprint(
  directory: locations.Location,
  name: str,
  *,
  sync: bool = False,
  size: int = -1,
  like: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
  """Returns size and hashes of a file; only the size if it is not `size`.

  Args:
    sync: whether to sync the file to disk.
    size: expected size; -1 for any.
    like: an entry that determines the kind of hash, such as a bucket's.
  """
  wants_md5 = "md5" in (like or ())
  checksum = 0
  digest = hashlib.md5(usedforsecurity=False) if wants_md5 else hashlib.sha256()
  with untrusted.open_file(
    name, folder=directory, max_bytes=_MAX_FILE_BYTES
  ) as file:
    if sync:
      os.fsync(file.fileno())
    found = untrusted.size_of(file)
    if size not in (-1, found):
      return {"size": found}
    while chunk := file.read(_CHUNK_BYTES):
      checksum = crc32c.crc32c(chunk, checksum)
      digest.update(chunk)
  if wants_md5:
    return {"size": found, "md5": digest.hexdigest()}
  return {"size": found, "crc32c": checksum, "sha256": digest.hexdigest()}


def _listed(info: objects.Info) -> dict[str, Any]:
  """Returns size and fingerprint of an object from its listing."""
  kind, value = info.fingerprint
  return {"size": info.size, kind: value}


def _body_crc32c(body: Mapping) -> int:
  return crc32c.crc32c(orjson.dumps(body, option=orjson.OPT_SORT_KEYS))
