"""The cache folder of public weights; resolves names to directories."""

import contextlib
import fcntl
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

from clap_jax.public_weights import table
from clap_jax.storage import locations, output, untrusted

VARIABLE = "CLAP_CACHE"
_DEFAULT = "~/.cache/clap_jax"
_RECORD, _FILES, _ENCODER, _LOCK = "source.json", "files", "encoder", "lock"
# Written last by an import, so that its presence means a complete import.
MANIFEST = "manifest.json"
_MAX_RECORD_BYTES = 1 << 20


def root() -> pathlib.Path:
  """Returns the root folder of the cache."""
  return pathlib.Path(os.environ.get(VARIABLE) or _DEFAULT).expanduser()


def folder_of(name: str) -> pathlib.Path:
  """Returns the cache folder of a name."""
  return root() / table.find(name).name


def files_of(name: str) -> pathlib.Path:
  """Returns the folder of the published files."""
  return folder_of(name) / _FILES


def encoder_of(name: str) -> pathlib.Path:
  """Returns the folder of the imported encoder, which may not exist."""
  return folder_of(name) / _ENCODER


def is_there(name: str) -> bool:
  """Returns True if a name was fetched and imported."""
  return (encoder_of(name) / MANIFEST).is_file()


def read_record(name: str) -> dict[str, Any]:
  """Reads the record of an earlier `clap get`; {} without one.

  Raises:
    ValueError: if the record is damaged.
  """
  folder = folder_of(name)
  if not (folder / _RECORD).exists():
    return {}
  record = untrusted.read_json(
    _RECORD, folder=folder, max_bytes=_MAX_RECORD_BYTES
  )
  if not _is_record(record):
    raise ValueError(
      f"{folder / _RECORD} does not list files with their hashes; remove "
      f"{folder} and run `clap get {name}` again."
    )
  return record


def _is_record(record: Any) -> bool:
  """Returns True if a document has the keys that `fetching.fetch` writes."""
  texts = ("source", "revision", "weights")
  return (
    isinstance(record, dict)
    and all(isinstance(record.get(key), str) for key in texts)
    and isinstance(record.get("tokenizer"), str | None)
    and isinstance(record.get("files"), list)
    and all(
      isinstance(file, dict)
      and all(isinstance(file.get(key), str) for key in ("name", "sha256"))
      for file in record["files"]
    )
  )


def write_record(name: str, record: dict[str, Any]) -> None:
  output.write_json(folder_of(name) / _RECORD, record, folder=root())


@contextlib.contextmanager
def locked(
  name: str, on_wait: Callable[[], None] = lambda: None
) -> Iterator[pathlib.Path]:
  """Locks the folder of a name for this process.

  Args:
    name: name of the table.
    on_wait: called once if another process holds the lock.

  Yields:
    The folder, created if missing.
  """
  folder = folder_of(name)
  output.make_folder(folder)
  with output.open_appending(folder / _LOCK) as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      on_wait()
      fcntl.flock(file, fcntl.LOCK_EX)
    yield folder


def directory_of(model: locations.PathLike) -> locations.Location:
  """Resolves a path or a name of public weights to a directory.

  Nothing is downloaded.

  Args:
    model: a path, also in a bucket, which need not exist; or a name of the
      table. An existing directory has precedence.

  Raises:
    FileNotFoundError: if the name has not been fetched.
  """
  path, text = locations.at(model), str(model)
  if not table.is_name(text) or path.exists():
    return path
  if not is_there(text):
    entry = table.find(text)
    raise FileNotFoundError(
      f"{text} has not been fetched; run `clap get {text}` first (about "
      f"{entry.about_bytes / 1e6:,.0f} MB, licence {entry.licence})."
    )
  return encoder_of(text)


def existing_directory_of(model: locations.PathLike) -> locations.Location:
  """Resolves a path or a name to an existing directory; see `directory_of`.

  Raises:
    FileNotFoundError: if it is neither a directory nor a fetched name.
  """
  path = directory_of(model)
  if not path.exists():
    like = table.similar(str(model))
    raise FileNotFoundError(
      f"{path} is neither a directory nor a name of public weights"
      + (f"; did you mean {' or '.join(like)}?" if like else ".")
      + " See `clap get --list`."
    )
  return path
