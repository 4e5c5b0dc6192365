"""Fills a config with the defaults of its dataclasses.

Defaults are stated in the dataclasses alone, but a flag can set a key only if
the ConfigDict holds it with a type: so this module adds every key before the
flags are parsed.
"""

import dataclasses
import types
import typing
from collections.abc import Iterable
from typing import Any

import ml_collections
from ml_collections import config_dict

from clap_jax import config as config_lib

_MISSING = dataclasses.MISSING


def complete(
  config: ml_collections.ConfigDict, cls: type, *, keys: Iterable[str] = ()
) -> None:
  """Adds every key of the dataclass `cls` that `config` lacks.

  Keys that are None get their type. A section that is None by default, such as
  data.files, appears only if one of `keys` is in it.

  Args:
    config: result of a config file's get_config; changed in place.
    cls: dataclass that `config.resolve` will build from it.
    keys: keys that flags will set, as "section.key". If they set a duration in
      one unit, its other units are cleared.
  """
  with config.unlocked():
    _complete_section(config, cls, [key.split(".") for key in keys])


def _complete_section(section, cls: type, paths: list[list[str]]) -> None:
  hints = typing.get_type_hints(cls)
  for field in dataclasses.fields(cls):
    hint = hints[field.name]
    if config_lib.is_duration(hint):
      _complete_duration(section, field, {path[0] for path in paths})
      continue
    ours = [path[1:] for path in paths if path[0] == field.name]
    inner = _without_none(hint)
    if isinstance(inner, type) and dataclasses.is_dataclass(inner):
      _complete_nested(section, field, inner, ours)
    elif typing.get_origin(inner) is dict:
      _complete_table(section, field, inner, ours)
    else:
      _complete_value(section, field, inner, is_named=bool(ours))


def _complete_nested(section, field, cls: type, paths) -> None:
  name, default = field.name, _default_of(field)
  paths = [path for path in paths if path]
  if section.get(name) is None:
    if not paths and (default is None or name in section):
      return
    values = {} if default in (None, _MISSING) else config_lib.as_dict(default)
    _replace(section, name, ml_collections.ConfigDict(with_tuples(values)))
  if isinstance(section[name], ml_collections.ConfigDict):
    _complete_section(section[name], cls, paths)


def _complete_table(section, field, hint, paths) -> None:
  """Completes a dict of strings, to which flags may add entries."""
  name, default = field.name, _default_of(field)
  wanted = [path[0] for path in paths if len(path) == 1]
  if section.get(name) is None:
    if default in (None, _MISSING) and not wanted:
      return
    entries = {} if default in (None, _MISSING) else default
    _replace(section, name, ml_collections.ConfigDict(entries))
  table = section[name]
  if isinstance(table, ml_collections.ConfigDict):
    for key in wanted:
      if key not in table:
        table[key] = _empty(typing.get_args(hint)[1])


def _complete_value(section, field, hint, *, is_named: bool) -> None:
  name, default = field.name, _default_of(field)
  if name not in section:
    if default is _MISSING and not is_named:
      return
    has_value = default not in (None, _MISSING)
    section[name] = default if has_value else _empty(hint)
  elif section[name] is None:
    if section.get_type(name) is type(None):
      _replace(section, name, _empty(hint))
  elif hint is float and type(section[name]) is int:
    # Otherwise a flag could only set whole numbers.
    _replace(section, name, float(section[name]))


def _complete_duration(section, field, named: set[str]) -> None:
  keys = config_lib.duration_keys(field)
  is_named = not named.isdisjoint(keys.values())
  for unit, key in keys.items():
    if key not in section or (is_named and key not in named):
      _replace(section, key, _empty(int if unit == "steps" else float))


def _default_of(field) -> Any:
  if field.default_factory is not _MISSING:
    return field.default_factory()
  return field.default


def _without_none(hint):
  """Returns X for the hints X | None and X."""
  if typing.get_origin(hint) not in (typing.Union, types.UnionType):
    return hint
  (inner,) = [a for a in typing.get_args(hint) if a is not type(None)]
  return inner


def _empty(hint):
  """Returns a typed None, which a flag can set."""
  kind = typing.get_origin(hint) or hint
  kind = object if kind is Any else kind
  return config_dict.placeholder(kind)


def _replace(section, name: str, value) -> None:
  if name in section:  # assigning would keep the old type
    del section[name]
  section[name] = value


def with_tuples(value) -> Any:
  """Converts the lists of parsed JSON back to tuples."""
  if isinstance(value, dict):
    return {key: with_tuples(value[key]) for key in value}
  if isinstance(value, list | tuple):
    return tuple(map(with_tuples, value))
  return value
