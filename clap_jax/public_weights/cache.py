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
# Written last by an import, so that it vouches for the rest.
MANIFEST = "manifest.json"
_MAX_RECORD_BYTES = 1 << 20


def root() -> pathlib.Path:
  """The folder of all that is fetched."""
  return pathlib.Path(os.environ.get(VARIABLE) or _DEFAULT).expanduser()


def folder_of(name: str) -> pathlib.Path:
  """The folder of one name."""
  return root() / table.find(name).name


def files_of(name: str) -> pathlib.Path:
  """The folder of the files as they were published."""
  return folder_of(name) / _FILES


def encoder_of(name: str) -> pathlib.Path:
  """The folder of the imported encoder, whether or not it is there."""
  return folder_of(name) / _ENCODER


def is_there(name: str) -> bool:
  """Whether a name was fetched and imported."""
  return (encoder_of(name) / MANIFEST).is_file()


def read_record(name: str) -> dict[str, Any]:
  """Reads the record of an earlier `clap get`; {} without one.

  Raises:
    ValueError: the record is damaged.
  """
  folder = folder_of(name)
  if not (folder / _RECORD).exists():
    return {}
  record = untrusted.read_json(
    _RECORD, folder=folder, max_bytes=_MAX_RECORD_BYTES
  )
  if not _is_record(record):
    raise ValueError(
      f"{folder / _RECORD} does not list files and their hashes; remove "
      f"{folder} and run `clap get {name}` again."
    )
  return record


def _is_record(record: Any) -> bool:
  """Returns True if a document has what `fetching.fetch` writes."""
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
  """Holds the folder of a name for this process, which may have to wait.

  Yields:
    The folder, made if it was missing.
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
  """The directory that a path or a name means.

  Args:
    model: a path, also in a bucket, which need not exist, or a name of the
      table; a directory that has the name comes first.

  Raises:
    FileNotFoundError: the name was not fetched yet; nothing is downloaded
      unasked.
  """
  path, text = locations.at(model), str(model)
  if not table.is_name(text) or path.exists():
    return path
  if not is_there(text):
    entry = table.find(text)
    raise FileNotFoundError(
      f"{text} is not there yet: run `clap get {text}` first (about "
      f"{entry.about_bytes / 1e6:,.0f} MB, licence {entry.licence})."
    )
  return encoder_of(text)


def existing_directory_of(model: locations.PathLike) -> locations.Location:
  """`directory_of`, of what is there.

  Raises:
    FileNotFoundError: it is neither a directory nor a name that was fetched.
  """
  path = directory_of(model)
  if not path.exists():
    like = table.similar(str(model))
    raise FileNotFoundError(
      f"There is no directory {path}, and it is not a name of public weights"
      + (f"; did you mean {' or '.join(like)}?" if like else ".")
      + " See `clap get --list`."
    )
  return path
