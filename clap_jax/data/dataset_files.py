"""Reads and checks the JSON documents of a built dataset.

A folder may come from a third party: its files are opened as regular files
within it, and their content is checked before use.
"""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from clap_jax.storage import locations, untrusted

INFO_FILE = "dataset_info.json"
MANIFEST_FILE = "manifest.json"
_FEATURES_FILE = "features.json"
_LABELS_FILE = "segments-label.labels.txt"
_MAX_DOCUMENT_BYTES = 1 << 30  # a manifest lists all videos
VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)")
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,200}")
_TFDS_CLASSES = "tensorflow_datasets."
# JSON of a protocol buffer takes both spellings; "type" is TFDS's older form.
_CLASS_KEYS = ("pythonClassName", "python_class_name", "type", "proto_cls")
_MANIFEST_KEYS = frozenset(("missing", "corrupt"))
# Key -> kind of the value.
_MANIFEST_KINDS: dict[str, type] = {
  "missing": list,
  "corrupt": list,
  "excluded": list,
  "rejected": list,
  "repaired": list,
  "shards": list,
  "videos": dict,
  "annotated": dict,
}
# List -> keys with texts that each of its objects has.
_ENTRY_KEYS = {"corrupt": ("id",), "excluded": ("id",), "shards": ("name",)}


class DatasetError(ValueError):
  """Raised for a missing, incomplete or inconsistent dataset directory."""


class Info(NamedTuple):
  """The content of dataset_info.json."""

  name: str  # of the builder, as its files begin
  shard_lengths: dict[str, list[int]]  # split -> records of each shard


def read_info(directory: locations.Location) -> Info:
  """Reads and checks dataset_info.json.

  Raises:
    DatasetError: the file is damaged, or describes another kind of dataset.
    FileNotFoundError: there is none.
  """
  path = directory / INFO_FILE
  document = _read_object(directory, INFO_FILE)
  try:
    info = Info(
      document["name"],
      {
        split["name"]: [int(length) for length in split.get("shardLengths", ())]
        for split in document.get("splits", ())
      },
    )
  except (KeyError, TypeError, ValueError, AttributeError) as error:
    raise DatasetError(
      f"{path} does not describe splits and shards ({error!r:.200}); copy it "
      "again or build it again"
    ) from error
  for text in (info.name, *info.shard_lengths):
    if not isinstance(text, str) or not _FILE_NAME.fullmatch(text):
      raise DatasetError(
        f"{path} has the name {text!r:.100}; expected letters, digits, '_', "
        "'-' and inner dots"
      )
  file_format = document.get("fileFormat", "tfrecord")
  if file_format != "tfrecord":
    raise DatasetError(
      f"{path}: the dataset is stored as {file_format!r:.100}, expected "
      "tfrecord; build it again with the tfrecord format"
    )
  return info


def read_manifest(directory: locations.Location, split: str) -> dict[str, Any]:
  """Reads and checks the manifest of a split.

  Raises:
    DatasetError: the file is damaged, or lacks required entries.
    FileNotFoundError: there is none.
  """
  name = f"{split}/{MANIFEST_FILE}"
  manifest = _read_object(directory, name)
  wrong = sorted(
    {
      *(_MANIFEST_KEYS - manifest.keys()),
      *(
        key
        for key, kind in _MANIFEST_KINDS.items()
        if key in manifest and not isinstance(manifest[key], kind)
      ),
    }
  )
  for key, fields in _ENTRY_KEYS.items():
    if key not in wrong and not all(
      isinstance(entry, dict)
      and all(isinstance(entry.get(field), str) for field in fields)
      for entry in manifest.get(key, ())
    ):
      wrong.append(key)
  if wrong:
    raise DatasetError(
      f"{directory / name} is damaged: its entries {wrong} are missing or of "
      "another kind; copy it again or build it again"
    )
  return manifest


def read_label_names(directory: locations.Location) -> tuple[str, ...]:
  """Reads class names in TFDS's form, one per line; none if absent."""
  try:
    text = untrusted.read_text(_LABELS_FILE, folder=directory)
  except FileNotFoundError:
    return ()
  except untrusted.UntrustedFileError as error:
    raise DatasetError(f"{directory / _LABELS_FILE}: {error}") from error
  return tuple(filter(None, map(str.strip, text.split("\n"))))


def check_feature_classes(directory: locations.Location) -> None:
  """Refuses feature classes other than TFDS's own, which it would import.

  This package does not read through TFDS, but its users may.

  Raises:
    DatasetError: there are such classes, or the file is damaged.
  """
  path = directory / _FEATURES_FILE
  try:
    document = _read_object(directory, _FEATURES_FILE)
    foreign = sorted(
      str(name)[:200]
      for name in _class_names(document)
      if not str(name).startswith(_TFDS_CLASSES)
    )
  except (OSError, RecursionError) as error:
    raise DatasetError(
      f"{path} cannot be read ({error}); copy it again or build it again"
    ) from None
  if foreign:
    raise DatasetError(
      f"{path} names the classes {foreign}; expected classes of "
      f"{_TFDS_CLASSES}* alone. Build the dataset again."
    )


def listed_sizes(directory: locations.Location) -> dict[str, int] | None:
  """Returns object sizes by relative name; None for a local folder."""
  if not isinstance(directory, locations.ObjectPath):
    return None
  return {name: info.size for name, info in directory.infos_below().items()}


def versions(
  directory: locations.Location,
) -> dict[str, dict[str, int] | None]:
  """Returns the built versions of a dataset, each with its `listed_sizes`.

  One listing brings those of all versions.
  """
  found: dict[str, dict[str, int]] = {}
  if (sizes := listed_sizes(directory)) is not None:
    for name, size in sizes.items():
      version, _, below = name.partition("/")
      found.setdefault(version, {})[below] = size
    return {
      version: sizes
      for version, sizes in found.items()
      if VERSION.fullmatch(version) and INFO_FILE in sizes
    }
  try:
    paths = list(directory.iterdir())
  except (FileNotFoundError, NotADirectoryError):
    return {}
  return {
    path.name: None
    for path in paths
    if VERSION.fullmatch(path.name) and (path / INFO_FILE).is_file()
  }


def list_datasets(root: locations.Location) -> list[str]:
  """Returns the names of the datasets below a folder."""
  if not root.is_dir():
    return []
  parents = {
    path.parent.parent
    for pattern in ("*/*/dataset_info.json", "*/*/*/dataset_info.json")
    for path in root.glob(pattern)
    if VERSION.fullmatch(path.parent.name)
  }
  return sorted(locations.name_below(parent, root) for parent in parents)


def _read_object(directory: locations.Location, name: str) -> dict[str, Any]:
  try:
    document = untrusted.read_json(
      name, folder=directory, max_bytes=_MAX_DOCUMENT_BYTES
    )
  except untrusted.UntrustedFileError as error:
    raise DatasetError(
      f"{directory / name} is damaged ({error}); copy it again or build it "
      "again"
    ) from error
  if not isinstance(document, dict):
    raise DatasetError(
      f"{directory / name} is damaged: it holds a {type(document).__name__}, "
      "expected an object"
    )
  return document


def _class_names(value: Any) -> Iterator[Any]:
  if isinstance(value, dict):
    for key, child in value.items():
      if key in _CLASS_KEYS and not isinstance(child, dict | list):
        yield child
      else:
        yield from _class_names(child)
  elif isinstance(value, list):
    for child in value:
      yield from _class_names(child)
