"""Reads config files and overrides by the rules of ml_collections."""

import difflib
import importlib.util
import pathlib
import sys
from collections.abc import Iterator, Mapping

import ml_collections
from absl import flags
from etils import epy
from ml_collections import config_flags

from clap_jax.commands import addresses, completing
from clap_jax.storage import untrusted

with epy.lazy_imports():
  from clap_jax.trainers import registry

_MAX_CONFIG_BYTES = 1 << 20
_SHIPPED = pathlib.Path(__file__).parents[2]  # holds configs/ and clap_jax/


def read(name: str, overrides: list[str], *, cls: type | None = None):
  """Reads a config file and applies overrides.

  Args:
    name: FILE.py[:argument]; see `config_path`.
    overrides: flags --config.KEY=VALUE, for any key of the dataclasses.
    cls: dataclass of the config; None: that of the trainer it names.

  Returns:
    An ml_collections.ConfigDict.

  Raises:
    FileNotFoundError: the file does not exist.
    ValueError: the file or an override is invalid.
  """
  config = load(name)
  if cls is None and "trainer" in config:
    cls = registry.config_class(config)
  read = _overridden(config, overrides, cls=cls)
  addresses.check_config(read.to_dict())
  return read


def of_run(
  document: Mapping, overrides: list[str], *, changeable: tuple[str, ...]
):
  """Returns the ConfigDict of a finished run with overrides.

  Args:
    document: the run's config.json.
    overrides: flags --config.KEY=VALUE.
    changeable: keys that may be overridden, each with the keys below it.

  Raises:
    ValueError: an override sets another key.
  """
  for override in overrides:
    key = _key_of(override)
    if not any(f"{key}.".startswith(f"{name}.") for name in changeable):
      raise ValueError(
        f"--config.{key}: this key of a finished run is fixed; only "
        f"{', '.join(changeable)} may differ. Train another run."
      )
  if not isinstance(document, Mapping):
    raise ValueError(
      f"the run's config.json holds {document!r:.60}; expected an object"
    )
  config = ml_collections.ConfigDict(completing.with_tuples(dict(document)))
  cls = registry.config_class(config)
  return _overridden(config.lock(), overrides, cls=cls)


def _key_of(override: str) -> str:
  return override.partition("=")[0].removeprefix("--config.")


def _overridden(
  config: ml_collections.ConfigDict, overrides: list[str], *, cls: type | None
):
  if cls is not None:
    completing.complete(config, cls, keys=map(_key_of, overrides))
  for override in overrides:
    _check_key(config, override)
  last = {override.partition("=")[0]: override for override in overrides}
  # ml_collections would parse None as a string or fail to parse a number.
  cleared = [flag for flag, text in last.items() if text == f"{flag}=None"]
  values = flags.FlagValues()
  arguments = ["clap"]
  for override in overrides:
    flag, _, text = override.partition("=")
    if text != "None" and flag not in cleared:
      arguments.append(override)
  try:
    # It finds the overridden keys in `sys_argv`, by default sys.argv.
    config_flags.DEFINE_config_dict(
      "config", config, flag_values=values, sys_argv=arguments
    )
    values(arguments)
  except (flags.Error, KeyError, AttributeError, TypeError) as error:
    raise ValueError(f"--config: {error}") from error
  for flag in cleared:
    _set_none(values.config, flag.split(".")[1:])
  return values.config


def _set_none(section, keys: list[str]) -> None:
  """Sets a key to None; `config.resolve` checks that None is allowed."""
  *sections, key = keys
  for name in sections:
    section = section[name]
  with section.ignore_type():
    section[key] = None


def _check_key(config: ml_collections.ConfigDict, override: str) -> None:
  """Raises a ValueError if "--config.a.b=..." cannot set a key of the config.

  The message lists similar keys.
  """
  flag, equals, _ = override.partition("=")
  section = config
  for key in flag.split(".")[1:]:
    if not isinstance(section, ml_collections.ConfigDict) or (
      key not in section
    ):
      near = _near_keys(config, flag.removeprefix("--config."))
      known = (f"did you mean {' or '.join(near)}? " if near else "") + (
        f"choose from {', '.join(sorted(section))}"
        if isinstance(section, ml_collections.ConfigDict)
        else "its parent is a value, not a section"
      )
      raise ValueError(f"{flag}: unknown key {key!r}; {known}.")
    section = section[key]
  if not equals:
    raise ValueError(f"{flag}: got no value; give {flag}=VALUE.")


def _near_keys(config: ml_collections.ConfigDict, wanted: str) -> list[str]:
  """Returns keys spelt like `wanted`, or with its last part elsewhere."""
  keys = list(_keys(config))
  last = wanted.rpartition(".")[2]
  found = [key for key in keys if key.rpartition(".")[2] == last]
  found += difflib.get_close_matches(wanted, keys, n=3, cutoff=0.8)
  return list(dict.fromkeys(found))[:3]


def _keys(section, prefix: str = "") -> Iterator[str]:
  for key in section:
    if isinstance(section[key], ml_collections.ConfigDict):
      yield from _keys(section[key], f"{prefix}{key}.")
    else:
      yield f"{prefix}{key}"


def load(name: str) -> ml_collections.ConfigDict:
  """Returns the result of `get_config` of FILE.py[:argument]."""
  file, colon, argument = name.partition(":")
  module = load_module(file)
  if not hasattr(module, "get_config"):
    raise ValueError(f"--config: {file} has no function get_config(arg='').")
  try:
    config = module.get_config(*[argument] if colon else [])
  except ValueError as error:
    raise ValueError(f"--config: {name}: {error}") from error
  if not isinstance(config, ml_collections.ConfigDict):
    raise ValueError(
      f"--config: get_config of {file} returned {type(config).__name__}, "
      "expected an ml_collections.ConfigDict."
    )
  return config


def config_path(file: str) -> pathlib.Path:
  """Returns the path of a config file.

  A name configs/FILE.py that is not in the working directory refers to the
  file that is installed with the package.

  Raises:
    FileNotFoundError: the file does not exist.
  """
  path = pathlib.Path(file)
  if path.suffix == ".py":
    if path.is_file():
      return path
    shipped = _SHIPPED / path
    if (
      path.parts[0] == "configs"
      and ".." not in path.parts
      and (shipped.is_file())
    ):
      return shipped
  names = sorted(
    f"configs/{one.name}"
    for one in (_SHIPPED / "configs").glob("*.py")
    if one.stem != "__init__"
  )
  near = difflib.get_close_matches(file, names, n=3) or names
  raise FileNotFoundError(
    f"--config: {file} is not an existing Python file; give "
    f"FILE.py[:argument], for example {', '.join(near)}."
  )


def load_module(file: str):
  """Imports a config file as a Python module."""
  path = config_path(file)
  if path != pathlib.Path(file):
    print(f"--config: {file} is read from {path}", file=sys.stderr)
  untrusted.open_file(path, max_bytes=_MAX_CONFIG_BYTES).close()
  spec = importlib.util.spec_from_file_location("clap_config", path)
  assert spec is not None and spec.loader is not None  # its name ends in .py
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
  except SyntaxError as error:
    raise ValueError(f"--config: {error}") from error
  return module


def named_slice(name: str) -> str:
  """Returns the smallest TPU slice of FILE.py[:argument], from its SLICES.

  Raises:
    ValueError: the file has no SLICES.
  """
  file, _, argument = name.partition(":")
  slices = getattr(load_module(file), "SLICES", None)
  if not slices:
    raise ValueError(
      f"--topology: {file} has no SLICES; give a topology, or smallest."
    )
  items = [item.removeprefix("size=") for item in argument.split(",")]
  size = next((item for item in items if item in slices), next(iter(slices)))
  return slices[size]
