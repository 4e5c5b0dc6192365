"""Resolves arguments that are local paths, gs:// or s3:// addresses.

All others would take an address for the name of a local file or folder; they
are refused before anything is done.
"""

import argparse
import re
from collections.abc import Iterator, Mapping
from typing import Any

from clap_jax.storage import locations, objects

# Command -> names of its arguments.
ACCEPTED: Mapping[str, frozenset[str]] = {
  command: frozenset(names.split())
  for command, names in {
    "data": "data_dir json",
    "eval": "workdir json",
    "extract": "model data_dir out json",
    "score": "predictions ground_truth json",
    "texts": "model queries out json",
    "tokenizer": "data_dir out json",
    "train": "workdir json",
  }.items()
}
# Keys of configs, each with all that is below it.
ACCEPTED_KEYS = (
  "data.data_dir",
  "data.features_dir",
  "data.tokenizer",
  "start.workdir",
)
_CONFIGURED = ("train",)  # whose configs may name objects
# Free texts, which may contain addresses, and what is not a path.
_TEXTS = frozenset(
  ("text", "query", "place", "overrides", "command", "run", "show")
)
# Orbax, which writes them, takes no endpoint of S3 and so was not tested there.
_HOLDS_CHECKPOINTS = frozenset(("workdir", "model", "start.workdir"))
_POSITIONAL = frozenset(
  (
    ("convert", "file"),
    ("import", "path"),
    ("index", "folder"),
    ("predict", "videos"),
    ("score", "predictions"),
  )
)
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def check(args: argparse.Namespace) -> None:
  """Checks every argument of a command line, and its overrides.

  Raises:
    AddressError: naming the argument that must not be an address, or the
      package that reading or writing there needs.
  """
  accepted = ACCEPTED.get(args.command, frozenset())
  for name, value in vars(args).items():
    if name in _TEXTS:
      continue
    for text in value if isinstance(value, list | tuple) else (value,):
      if isinstance(text, str) and _ADDRESS.match(text):
        is_flag = (args.command, name) not in _POSITIONAL
        flag = f"--{name}" if is_flag else name
        _check_one(flag, text, name in accepted)
  for override in getattr(args, "overrides", ()):
    flag, _, text = override.partition("=")
    _check_key(args.command, flag, text)


def check_config(config: Mapping[str, Any]) -> None:
  """Checks the texts of a training config, but not the packages."""
  for key, text in _texts(config):
    _check_key("train", f"--config.{key}", text, uses=False)


def _check_key(
  command: str, flag: str, text: str, *, uses: bool = True
) -> None:
  for part in text.strip("'\"([, ").split(","):
    if _ADDRESS.match(part.strip("'\"([ ")):
      key = flag.removeprefix("--config.")
      accepted = command in _CONFIGURED and any(
        f"{key}.".startswith(f"{name}.") for name in ACCEPTED_KEYS
      )
      _check_one(flag, part.strip("'\"([]) "), accepted, uses=uses)


def _check_one(
  flag: str, text: str, accepted: bool, *, uses: bool = True
) -> None:
  if not accepted:
    raise locations.AddressError(
      f"{flag}: {text} is an address, and files are read and written here by "
      "their paths. Copy the files to a local folder, or mount the bucket "
      "(gcsfuse), and give that folder; docs/storage.md lists what takes "
      "addresses."
    )
  try:
    scheme, name = locations.at(text).scheme, flag.lstrip("-")
    if scheme == "s3" and name.removeprefix("config.") in _HOLDS_CHECKPOINTS:
      raise locations.AddressError(
        f"{text}: checkpoints have not been tested on s3://; keep them in "
        "gs:// or on a disk. Data, features and results may be in s3://"
      )
    if uses:
      objects.check_package(text.partition("://")[0])
  except locations.AddressError as error:
    raise locations.AddressError(f"{flag}: {error}") from None


def _texts(config: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
  if isinstance(config, Mapping):
    for key in config:
      yield from _texts(config[key], f"{prefix}.{key}" if prefix else str(key))
  elif isinstance(config, list | tuple):
    for item in config:
      yield from _texts(item, prefix)
  elif isinstance(config, str):
    yield prefix, config
