"""Fingerprints the inputs of a run.

A run is compared with its directory by the content of its inputs, not by their
paths: moved data is the same, other data under the same path is not.
`inputs.json` in the run's directory has the path and SHA-256 of each input.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from clap_jax import config as config_lib
from clap_jax.data import (
  feature_files,
  feature_reader,
  features,
  query_reader,
  records,
)
from clap_jax.public_weights import cache
from clap_jax.storage import locations, output, ranges, untrusted
from clap_jax.training import checkpoint, manifest, weights
from clap_jax.training import workdir as workdir_lib

INPUTS_FILE = "inputs.json"
# Bytes of features to hash; beyond, names, sizes and ends of files are used.
_MAX_HASHED_BYTES = 1 << 30
_END_BYTES = 1 << 16
_hashes: dict[tuple[str, int, int, bool], str] = {}  # of this process

Fingerprints = dict[str, dict[str, str]]  # key -> {"path", "sha256"}


@dataclasses.dataclass(frozen=True)
class Differences:
  """Differences between a run and the one in its directory, as lines."""

  training: tuple[str, ...] = ()  # differences that change training
  evaluation: tuple[str, ...] = ()  # differences that change evaluation


def compare(workdir: locations.Location, config: Any) -> Differences:
  """Compares a resolved config and its inputs with the run in `workdir`.

  An input without a fingerprint on either side (an earlier revision, or a
  missing file) is compared by its path.
  """
  if not (workdir / workdir_lib.CONFIG_FILE).is_file():
    return Differences()
  before, now = _read(workdir), fingerprints(config)
  training = workdir_lib.run_differences(workdir, config)
  evaluation = workdir_lib.run_differences(
    workdir, config, only=workdir_lib.EVALUATION_KEYS
  )
  known = {_key(name) for name in before.keys() & now.keys()}
  for line in workdir_lib.run_differences(
    workdir, config, only=workdir_lib.INPUT_KEYS
  ):
    key = line.partition(": was ")[0]
    if not workdir_lib.is_below(key, tuple(known)):
      (evaluation if _is_scored_only(key, config) else training).append(line)
  for name in sorted(before.keys() & now.keys()):
    old, new = before[name], now[name]
    if old["sha256"] != new["sha256"]:
      lines = evaluation if _is_scored_only(name, config) else training
      lines.append(
        f"{name}: was {old['path']} of sha256 {old['sha256'][:16]}, now "
        f"{new['path']} of sha256 {new['sha256'][:16]}"
      )
  return Differences(tuple(training), tuple(evaluation))


def check(workdir: locations.Location, differences: Iterable[str]) -> None:
  """Raises a ValueError that lists the differences, if any."""
  lines = "".join(f"\n  {line}" for line in differences)
  if lines:
    raise ValueError(
      f"{workdir} belongs to a run with another config or other data:{lines}\n"
      "Use another directory, or delete this one to start over."
    )


def take(workdir: locations.Location, config: Any) -> None:
  """Compares with the run in `workdir` and records this run's inputs.

  Raises:
    ValueError: the directory belongs to a run of another config or other data.
  """
  check(workdir, compare(workdir, config).training)
  now = fingerprints(config)
  before = _read(workdir)
  if (workdir / workdir_lib.CONFIG_FILE).is_file():
    now = before | now
  if now != before:
    workdir.mkdir(parents=True, exist_ok=True)
    output.write_json(workdir / INPUTS_FILE, {"inputs": now})


def _read(workdir: locations.Location) -> Fingerprints:
  path = workdir / INPUTS_FILE
  if not path.is_file():
    return {}
  document = untrusted.read_json(path)
  try:
    return {
      name: {"path": str(entry["path"]), "sha256": str(entry["sha256"])}
      for name, entry in document["inputs"].items()
    }
  except (AttributeError, KeyError, TypeError) as error:
    raise ValueError(
      f"{path} is damaged ({error!r}); remove it to compare by paths."
    ) from None


def _key(name: str) -> str:
  """Returns the config key of an entry, without "[training]"."""
  return name.partition("[")[0]


def _is_scored_only(name: str, config: Any) -> bool:
  """Returns True if an input is only read for evaluation."""
  if _key(name) == "classifier.path":
    return True
  section, _, split = name.rpartition(".")
  return section == "data.queries.files" and split != config.data.train_split


def fingerprints(config: Any) -> Fingerprints:
  """Returns the path and SHA-256 of every existing input.

  Args:
    config: a trainer's resolved config.
  """
  values = workdir_lib.flattened(config_lib.as_dict(config))
  found: Fingerprints = {}
  for key, value in values.items():
    read = next(
      (
        function
        for name, function in _INPUTS.items()
        if workdir_lib.is_below(key, (name,))
      ),
      None,
    )
    if read is None or not value:
      continue
    for part, digest in read(config, value).items():
      name = f"{key}[{part}]" if part else key
      found[name] = {"path": str(value), "sha256": digest}
  return found


def _file(config: Any, path: str) -> dict[str, str]:
  """Fingerprints a file; {} for a name within the package."""
  del config
  return {"": hash_file(path)} if locations.at(path).is_file() else {}


def _files(config: Any, paths: list[str]) -> dict[str, str]:
  found = [_file(config, path).get("") for path in paths]
  return {} if None in found else {"": _digest(found)}


def _dataset(config: Any, data_dir: str) -> dict[str, str]:
  """Fingerprints a built dataset by the checksums of its files."""
  if config.data.dataset is None or getattr(config.data, "queries", None):
    return {}
  try:
    directory = records.open_dataset(data_dir, config.data.dataset).directory
  except (records.DatasetError, OSError):
    return {}
  names = ["SHA256SUMS"]
  if not (directory / names[0]).is_file():
    names = ["dataset_info.json"]
    names += [
      locations.name_below(path, directory)
      for pattern in ("*/manifest.json", f"*/{records.METADATA_FILE}")
      for path in sorted(directory.glob(pattern))
    ]
  return {"": _digest([name, hash_file(directory / name)] for name in names)}


def _features(config: Any, folder: str) -> dict[str, str]:
  """Fingerprints features and texts of each split that the run reads."""
  data, directory = config.data, locations.at(folder)
  if not directory.is_dir():
    return {}
  is_grounding = isinstance(data, query_reader.GroundingData)
  open_reader = (
    query_reader.open_reader if is_grounding else feature_reader.FeatureReader
  )
  reader, found = open_reader(data), {}
  for split in {data.train_split, data.selection_split, data.eval_split}:
    try:
      infos = () if split is None else reader.examples(split)
      there = _feature_names(data, infos)
    except (ValueError, OSError):
      continue  # the trainer reports the error
    if there:
      found[split] = _folder_digest(directory, there)
  for name in (feature_reader.TEXTS_FILE, feature_reader.CLASSES_FILE):
    if (directory / name).is_file():
      found[name] = hash_file(directory / name)
  return found


def _feature_names(data: feature_reader.FeatureData, infos) -> list[str]:
  """Returns the existing feature files of the videos."""
  if data.files is not None and data.files.timing != "stored":
    return feature_files.FileFeatures(
      data.features_dir, infos, files=data.files, on_missing="skip"
    ).file_names()
  paths = [features.features_path(data.features_dir, i.id) for i in infos]
  return sorted({path.name for path in paths if path.is_file()})


def _run(config: Any, workdir: str) -> dict[str, str]:
  """Fingerprints the newest checkpoint of a run by its manifest."""
  del config
  directory = locations.at(workdir) / checkpoint.CHECKPOINT_DIRECTORY
  if not directory.is_dir():
    return {}
  steps = checkpoint.complete_steps(directory)
  if not steps:
    return {}
  try:
    body = manifest.read_manifest(directory / str(steps[-1]))
  except manifest.DamagedCheckpointError:
    return {}
  return {"": _digest(sorted(body["files"].items()))}


def _weights(config: Any, directories: str) -> dict[str, str]:
  """Fingerprints imported weights by their manifests, which hold hashes."""
  folders = [part.strip() for part in directories.split(",") if part.strip()]
  files = [
    str(cache.directory_of(folder) / weights.MANIFEST_FILE)
    for folder in folders
  ]
  return _files(config, files)


# Config key -> the fingerprints of its value by part; "" for a whole.
_INPUTS: Mapping[str, Callable[[Any, Any], dict[str, str]]] = {
  "class_split": _file,
  "classes.class_split": _file,
  "classes.text_model": _weights,
  "classifier.path": _file,
  "data.annotations": _file,
  "data.data_dir": _dataset,
  "data.durations": _files,
  "data.features_dir": _features,
  "data.queries.durations": _files,
  "data.queries.files": _file,
  "data.queries.held_out": _file,
  "data.queries.texts": _file,
  "data.texts": _file,
  "data.tokenizer": _file,
  "sampling.class_split": _file,
  "start.imported": _weights,
  "start.workdir": _run,
  "tower.localizer_workdir": _run,
  "tower.workdir": _run,
}


def hash_file(path: locations.PathLike, *, ends_only: bool = False) -> str:
  """Returns the SHA-256 of a file, cached by its size and mtime.

  Args:
    ends_only: whether to hash only the size and the first and last 64 KiB.
  """
  path = locations.at(path)
  status = path.stat()
  key = (str(path), status.st_size, status.st_mtime_ns, ends_only)
  if key not in _hashes:
    if ends_only and status.st_size > 2 * _END_BYTES:
      content = _ends(path, status.st_size)
      digest = hashlib.sha256(f"{status.st_size}:".encode() + content)
      _hashes[key] = digest.hexdigest()
    else:
      _hashes[key] = untrusted.hash_file(path, max_bytes=status.st_size)
  return _hashes[key]


def _ends(path: locations.Location, size: int) -> bytes:
  if isinstance(path, locations.ObjectPath):
    return ranges.read(path, 0, _END_BYTES) + ranges.read(
      path, size - _END_BYTES, _END_BYTES
    )
  with untrusted.open_file(path, max_bytes=size) as file:
    first = file.read(_END_BYTES)
    file.seek(-_END_BYTES, 2)
    return first + file.read(_END_BYTES)


def _folder_digest(directory: locations.Location, names: list[str]) -> str:
  sizes = [(directory / name).stat().st_size for name in names]
  ends_only = sum(sizes) > _MAX_HASHED_BYTES
  return _digest(
    [name, size, hash_file(directory / name, ends_only=ends_only)]
    for name, size in zip(names, sizes, strict=True)
  )


def _digest(entries: Iterable[Any]) -> str:
  digest = hashlib.sha256()
  for entry in entries:
    digest.update(f"{entry!r}\n".encode())
  return digest.hexdigest()
