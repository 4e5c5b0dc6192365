"""Resolves arguments that are local paths, gs:// or s3:// addresses.

Other arguments would take an address for a local path; addresses in them are
errors, raised before any work.
"""

import argparse
import re
from collections.abc import Iterator, Mapping
from typing import Any

from clap_jax.storage import locations, objects

# Command -> arguments that take addresses.
ACCEPTED: Mapping[str, frozenset[str]] = {
  command: frozenset(names.split())
  for command, names in {
    "build": "data_dir manual_dir videos annotations json",
    "data": "data_dir json",
    "eval": "workdir json",
    "extract": "model data_dir out json",
    "score": "predictions ground_truth json",
    "texts": "model queries out json",
    "tokenizer": "data_dir out json",
    "train": "workdir json",
  }.items()
}
# Config keys that take addresses, each with the keys below it.
ACCEPTED_KEYS = (
  "data.data_dir",
  "data.features_dir",
  "data.tokenizer",
  "start.workdir",
)
_CONFIGURED = ("train",)  # commands whose configs take addresses
# Arguments that are not paths: free texts may contain addresses.
_TEXTS = frozenset(
  ("text", "query", "place", "overrides", "command", "run", "show")
)
# Orbax writes checkpoints and takes no S3 endpoint, so S3 is untested.
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
  """Checks every argument of a command line and its overrides.

  Raises:
    AddressError: an argument must not be an address, or a package for its
      scheme is missing.
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
  """Checks the strings of a training config, but not the packages."""
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
      f"{flag}: got the address {text}, expected a local path. Copy the files "
      "to a local folder, or mount the bucket (gcsfuse), and give that folder; "
      "docs/storage.md lists the arguments that take addresses."
    )
  try:
    scheme, name = locations.ObjectPath(text).scheme, flag.lstrip("-")
    if scheme == "s3" and name.removeprefix("config.") in _HOLDS_CHECKPOINTS:
      raise locations.AddressError(
        f"{text}: checkpoints on s3:// are untested; keep them on gs:// or on "
        "a disk. Data, features and results may be on s3://"
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
