"""Manages a run's directory: lock, config and environment."""

import contextlib
import dataclasses
import importlib.metadata
import os
import pathlib
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import orjson

from clap_jax import config as config_lib
from clap_jax.storage import leases, locations, output, untrusted

CONFIG_FILE = "config.json"
ENVIRONMENT_FILE = "environment.json"
LOCK_FILE = ".lock"
LEASE_FOLDER = ".lease"  # in a bucket, which has no locks
# Each key includes all keys below it. These configure the evaluation of a
# trained model; a run may change them and is evaluated again.
EVALUATION_KEYS = (
  "allow_seen_classes",
  "classifier",
  "data.eval_split",
  "data.selection_split",
  "decode",
  "evaluation",
  "protocol",
)
# Inputs of a run. Their content is compared, not the path; see trainers/inputs.
INPUT_KEYS = (
  "class_split",
  "classes.class_split",
  "classes.text_model",
  "data.annotations",
  "data.data_dir",
  "data.durations",
  "data.features_dir",
  "data.queries.durations",
  "data.queries.files",
  "data.queries.held_out",
  "data.queries.texts",
  "data.texts",
  "data.tokenizer",
  "sampling.class_split",
  "start.imported",
  "start.workdir",
  "tower.localizer_workdir",
  "tower.workdir",
)
# Keys that a resumed run may change: they do not alter what is learned.
CHANGEABLE_KEYS = (
  *EVALUATION_KEYS,
  *INPUT_KEYS,
  "checkpoint",
  "data.cache_mib",
  "data.num_processes",
  "data.num_threads",
  "mesh",
  *(
    f"loop.{name}_{unit}"
    for name in ("eval_every", "log_every")
    for unit in config_lib.DURATION_UNITS
  ),
  "loop.profile_steps",
  "loop.stall_timeout_sec",
  "loop.tensorboard",
)
_PACKAGES = ("clap_jax", "jax", "jaxlib", "flax", "optax", "numpy")


class WorkdirBusyError(RuntimeError):
  """Raised if another trainer uses the directory."""


@contextlib.contextmanager
def locked(workdir: locations.Location) -> Iterator[Callable[[], None]]:
  """Locks the directory for this process; creates it if missing.

  The lock of a local directory belongs to the process: a killed trainer
  releases it. The lease of a directory in a bucket expires.

  Yields:
    A function that raises an OSError if the lock is lost.

  Raises:
    WorkdirBusyError: another process, or another call, holds the lock.
  """
  is_object = isinstance(workdir, locations.ObjectPath)
  workdir.mkdir(parents=True, exist_ok=True)
  with contextlib.ExitStack() as stack:
    try:
      check = stack.enter_context(
        leases.locked(workdir / (LEASE_FOLDER if is_object else LOCK_FILE))
      )
    except leases.LeaseHeldError as error:
      raise WorkdirBusyError(
        f"Another trainer is at work in {workdir} ({error.holder}): wait for "
        "it, stop it, or use another directory."
      ) from None
    yield check


def write_config(workdir: locations.Location, config: Any) -> None:
  """Writes config.json, or compares with the existing one.

  Args:
    workdir: the run's directory.
    config: a resolved dataclass, or plain values.

  Raises:
    ValueError: the directory belongs to a run with another config; lists every
      key that differs.
  """
  path = workdir / CONFIG_FILE
  if path.exists():
    differences = run_differences(workdir, config)
    if differences:
      lines = "".join(f"\n  {line}" for line in differences)
      raise ValueError(
        f"{workdir} belongs to a run with another config:{lines}\nUse another "
        "directory, or delete this one to start over."
      )
  write_json(path, config_lib.as_dict(config))


def run_differences(
  workdir: locations.Location,
  config: Any,
  *,
  only: tuple[str, ...] | None = None,
) -> list[str]:
  """Returns `config_differences` of a run's config.json and `config`."""
  path = workdir / CONFIG_FILE
  before = untrusted.read_json(path) if path.is_file() else {}
  if dataclasses.is_dataclass(config):
    with contextlib.suppress(ValueError):  # an unreadable file differs
      # A file of an earlier revision lacks keys that have a default since.
      before = config_lib.as_dict(config_lib.resolve(type(config), before))
  return config_differences(before, config_lib.as_dict(config), only=only)


def config_differences(
  before: Any, after: Any, *, only: tuple[str, ...] | None = None
) -> list[str]:
  """Returns one line per key that differs.

  Args:
    before: plain values.
    after: plain values.
    only: keys to compare; None for all that must not change on resume.
  """
  old, new = flattened(before), flattened(after)
  return [
    f"{key}: was {old.get(key, 'absent')}, now {new.get(key, 'absent')}"
    for key in sorted(old | new)
    if old.get(key, "absent") != new.get(key, "absent")
    and (
      not is_below(key, CHANGEABLE_KEYS)
      if only is None
      else is_below(key, only)
    )
  ]


def is_below(key: str, names: tuple[str, ...]) -> bool:
  """Returns True if a key is one of `names` or in a section of these."""
  return any(f"{key}.".startswith(f"{name}.") for name in names)


def write_environment(
  workdir: locations.Location, mesh: jax.sharding.Mesh
) -> None:
  """Records the environment of the latest start of the run."""
  device = mesh.devices.flat[0]
  record = {
    "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    "host": platform.node(),
    "platform": platform.platform(),
    "revision": _revision(),
    "python": sys.version.split()[0],
    "packages": {name: _version(name) for name in _PACKAGES},
    "device_kind": device.device_kind,
    "backend": device.platform,
    "num_devices": mesh.size,
    "num_processes": jax.process_count(),
    "mesh": dict(mesh.shape),
    "num_cpus": len(os.sched_getaffinity(0))
    if hasattr(os, "sched_getaffinity")
    else os.cpu_count(),
    "xla_flags": os.environ.get("XLA_FLAGS", ""),
  }
  write_json(workdir / ENVIRONMENT_FILE, record)


def write_json(path: locations.Location, value: Any) -> None:
  """Replaces the file atomically."""
  output.write_bytes(path, orjson.dumps(value, option=orjson.OPT_INDENT_2))


def _revision() -> str | None:
  """Returns the commit of the source, with "-dirty" if modified."""
  command = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
  command += ["--exclude=*"]  # no tag names
  try:
    result = subprocess.run(
      command,
      cwd=pathlib.Path(__file__).parent,
      capture_output=True,
      text=True,
      timeout=10,
      check=True,
    )
  except (OSError, subprocess.SubprocessError):
    return None  # an installed package, or no git
  return result.stdout.strip()


def _version(package: str) -> str | None:
  try:
    return importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:
    return None


def flattened(value: Any, key: str = "") -> dict[str, Any]:
  """Flattens nested plain values to dotted keys."""
  if not isinstance(value, dict) or not value:
    return {key: value}
  flat = {}
  for name, child in value.items():
    flat |= flattened(child, f"{key}.{name}" if key else name)
  return flat
