"""What belongs to a checkpoint, to the byte, written when all else is there.

A checkpoint without a manifest was interrupted; one whose files differ from its
manifest is damaged. Orbax itself restores flipped bits silently.

CRC32C alone would not do: Orbax's files end with their own CRC32C, so that all
intact ones have one and the same checksum, and two that were swapped would go
unnoticed. Hence SHA-256 beside it.
"""

import hashlib
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import crc32c
import orjson

MANIFEST_FILE = "manifest.json"
_CHUNK_BYTES = 1 << 22


class DamagedCheckpointError(RuntimeError):
  """A checkpoint whose bytes are not those that were written."""


def write_manifest(
  directory: pathlib.Path, *, tree: Mapping[str, Any], metadata: Mapping
) -> None:
  """Records every file below `directory`, after bringing it to the disk.

  Args:
    directory: a complete checkpoint without a manifest.
    tree: name of each array -> [shape, dtype].
    metadata: JSON values to keep with it.
  """
  files = {
    str(path.relative_to(directory)): _fingerprint(path, sync=True)
    for path in _files_below(directory)
  }
  # The names as well: of those in a folder that was not brought to the disk a
  # power cut may leave none.
  for folder in (*_folders_below(directory), directory, directory.parent):
    _sync_directory(folder)
  body = {"files": files, "tree": dict(tree), "metadata": dict(metadata)}
  partial = directory / f"{MANIFEST_FILE}.partial"
  with open(partial, "wb") as file:
    file.write(orjson.dumps({"body": body, "crc32c": _body_crc32c(body)}))
    file.flush()
    os.fsync(file.fileno())
  os.replace(partial, directory / MANIFEST_FILE)
  _sync_directory(directory)


def read_manifest(directory: pathlib.Path) -> dict[str, Any]:
  """The manifest's `files`, `tree` and `metadata`.

  Raises:
    DamagedCheckpointError: if the manifest itself is damaged.
  """
  path = directory / MANIFEST_FILE
  try:
    record = orjson.loads(path.read_bytes())
    body, checksum = record["body"], record["crc32c"]
  except (orjson.JSONDecodeError, KeyError, TypeError) as error:
    raise DamagedCheckpointError(f"{path} cannot be read: {error}") from None
  if _body_crc32c(body) != checksum:
    raise DamagedCheckpointError(f"{path} does not agree with its checksum")
  return body


def has_manifest(directory: pathlib.Path) -> bool:
  return (directory / MANIFEST_FILE).exists()


def verify(directory: pathlib.Path) -> dict[str, Any]:
  """Reads every file and returns the manifest.

  Raises:
    DamagedCheckpointError: naming the first file that is missing, has another
      size or other bytes, or does not belong there.
  """
  body = read_manifest(directory)
  for name, expected in body["files"].items():
    path = directory / name
    if not path.is_file():
      raise DamagedCheckpointError(f"{path} is missing")
    found = _fingerprint(path, sync=False)
    if found != expected:
      raise DamagedCheckpointError(f"{path} is {found}, was {expected}")
  present = {str(p.relative_to(directory)) for p in _files_below(directory)}
  strangers = sorted(present - set(body["files"]) - {MANIFEST_FILE})
  if strangers:
    raise DamagedCheckpointError(f"{directory} holds foreign files {strangers}")
  return body


def _files_below(directory: pathlib.Path) -> list[pathlib.Path]:
  return sorted(path for path in directory.rglob("*") if path.is_file())


def _folders_below(directory: pathlib.Path) -> list[pathlib.Path]:
  return sorted(path for path in directory.rglob("*") if path.is_dir())


def _fingerprint(path: pathlib.Path, *, sync: bool) -> dict[str, Any]:
  checksum, digest = 0, hashlib.sha256()
  with open(path, "rb") as file:
    if sync:
      os.fsync(file.fileno())
    while chunk := file.read(_CHUNK_BYTES):
      checksum = crc32c.crc32c(chunk, checksum)
      digest.update(chunk)
    size = file.tell()
  return {"size": size, "crc32c": checksum, "sha256": digest.hexdigest()}


def _body_crc32c(body: Mapping) -> int:
  return crc32c.crc32c(orjson.dumps(body, option=orjson.OPT_SORT_KEYS))


def _sync_directory(directory: pathlib.Path) -> None:
  descriptor = os.open(directory, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)
