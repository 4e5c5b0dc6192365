"""Config files and their overrides, read by the rules of ml_collections."""

import functools
import importlib.util
import pathlib
from collections.abc import Mapping

import ml_collections
from absl import flags
from ml_collections import config_flags

from clap_jax import config as config_lib


def read(name: str, overrides: list[str]):
  """The ConfigDict of a file with overrides, by ml_collections' own rules."""
  config = load(name)
  config_lib.add_engine_defaults(config)
  return _overridden(config, overrides)


def of_run(document: Mapping, overrides: list[str], *, changeable: str):
  """The ConfigDict of a finished run's config, with overrides.

  Args:
    document: the run's config.json.
    overrides: as on the command line.
    changeable: what a key that may be overridden starts with.

  Raises:
    ValueError: any other key: the run was not trained so.
  """
  for override in overrides:
    key = override.partition("=")[0].removeprefix("--config.")
    if not key.startswith(changeable):
      raise ValueError(
        f"--config.{key}: a finished run is evaluated as it was trained; only "
        f"--config.{changeable}KEY may differ. Train another run."
      )
  config = ml_collections.ConfigDict(_with_tuples(document))
  return _overridden(config.lock(), overrides)


def _with_tuples(value):
  """JSON's lists as the tuples that they were."""
  if isinstance(value, Mapping):
    return {key: _with_tuples(value[key]) for key in value}
  if isinstance(value, list):
    return tuple(map(_with_tuples, value))
  return value


def _overridden(config: ml_collections.ConfigDict, overrides: list[str]):
  for override in overrides:
    _check_key(config, override)
  last = {override.partition("=")[0]: override for override in overrides}
  # To ml_collections None is a text, or no number.
  cleared = [flag for flag, text in last.items() if text == f"{flag}=None"]
  values = flags.FlagValues()
  arguments = ["clap"]
  for override in overrides:
    flag, _, text = override.partition("=")
    if text != "None" and flag not in cleared:
      arguments.append(override)
  try:
    # Which keys are overridden is read from `sys_argv`, by default sys.argv.
    config_flags.DEFINE_config_dict(
      "config", config, flag_values=values, sys_argv=arguments
    )
    values(arguments)
  except (flags.Error, KeyError, AttributeError, TypeError) as error:
    raise ValueError(f"--config: {error}") from error
  for flag in cleared:
    _set_none(values.config, flag.split(".")[1:])
  return values.config


def _set_none(config: ml_collections.ConfigDict, keys: list[str]) -> None:
  """Sets a key to None; `config.resolve` says if that is no value of it."""
  *sections, key = keys
  section = functools.reduce(
    lambda section, name: section[name], sections, config
  )
  with section.ignore_type():
    section[key] = None


def _check_key(config: ml_collections.ConfigDict, override: str) -> None:
  """Raises a ValueError if "--config.a.b=..." names no key of the config."""
  flag = override.partition("=")[0]
  section = config
  for key in flag.split(".")[1:]:
    if not isinstance(section, ml_collections.ConfigDict) or (
      key not in section
    ):
      known = (
        f"choose from {', '.join(sorted(section))}"
        if isinstance(section, ml_collections.ConfigDict)
        else "what stands before it is a value"
      )
      raise ValueError(f"{flag}: there is no key {key!r}; {known}.")
    section = section[key]


def load(name: str) -> ml_collections.ConfigDict:
  """What `get_config` of FILE.py[:argument] returns."""
  file, colon, argument = name.partition(":")
  module = load_module(file)
  if not hasattr(module, "get_config"):
    raise ValueError(f"--config: {file} has no function get_config(arg='').")
  config = module.get_config(*[argument] if colon else [])
  if not isinstance(config, ml_collections.ConfigDict):
    raise ValueError(
      f"--config: get_config of {file} returned {type(config).__name__}, "
      "expected an ml_collections.ConfigDict."
    )
  return config


def load_module(file: str):
  """The Python module of a config file."""
  path = pathlib.Path(file)
  if not path.is_file() or path.suffix != ".py":
    raise FileNotFoundError(
      f"--config: {file} is no Python file; give configs/FILE.py[:argument]."
    )
  spec = importlib.util.spec_from_file_location("clap_config", path)
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
  except SyntaxError as error:
    raise ValueError(f"--config: {error}") from error
  return module


def named_slice(name: str) -> str:
  """The smallest TPU slice of FILE.py[:argument], as the file's SLICES says.

  Raises:
    ValueError: if the file does not say.
  """
  file, _, argument = name.partition(":")
  slices = getattr(load_module(file), "SLICES", None)
  if not slices:
    raise ValueError(
      f"--topology: {file} names no slice (SLICES); give one, or smallest."
    )
  items = [item.removeprefix("size=") for item in argument.split(",")]
  size = next((item for item in items if item in slices), next(iter(slices)))
  return slices[size]
