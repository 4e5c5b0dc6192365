"""Converts an ml_collections.ConfigDict to checked, frozen dataclasses.

`resolve` is the only way in: it reports every problem of a configuration
together, before a device is touched. A dataclass's field without a default is a
required key. Its annotation is the type; `ranged` and `choice` say what values
it may take; a `Duration` is written as exactly one of `<name>_steps`,
`<name>_epochs` and `<name>_percent` and becomes steps in code, after overrides.
"""

# ruff: noqa: RUF009  (`duration` returns a dataclasses.field)

import dataclasses
import hashlib
import json
import math
import re
import types
import typing
from collections.abc import Mapping
from typing import Any

import ml_collections

DURATION_UNITS = ("steps", "epochs", "percent")
_MISSING = dataclasses.MISSING
_MAPPINGS = (Mapping, ml_collections.ConfigDict)


class ConfigError(ValueError):
  """Everything that is wrong with a configuration, one problem per line."""

  def __init__(self, problems: list[str]):
    self.problems = tuple(problems)
    lines = "".join(f"\n  {problem}" for problem in problems)
    super().__init__(f"{len(problems)} problem(s) in the config:{lines}")


@dataclasses.dataclass(frozen=True)
class Duration:
  """A span of training in the unit it was written in."""

  value: float
  unit: str  # one of DURATION_UNITS

  def in_steps(
    self, *, total_steps: int | None = None, steps_per_epoch: int | None = None
  ) -> int:
    """The span in whole steps, rounded to the nearest, halves up.

    A positive span is never rounded down to nothing.

    Raises:
      ValueError: if what the unit refers to is not given.
    """
    if self.unit == "steps":
      return int(self.value)
    reference = {"epochs": steps_per_epoch, "percent": total_steps}[self.unit]
    if reference is None:
      name = {"epochs": "steps_per_epoch", "percent": "total_steps"}[self.unit]
      raise ValueError(
        f"A duration of {self.value} {self.unit} needs {name}, which this run "
        "does not know: give the duration in steps."
      )
    scale = 0.01 if self.unit == "percent" else 1.0
    steps = math.floor(self.value * scale * reference + 0.5)
    return max(steps, 1) if self.value > 0 else 0


def ranged(
  *,
  default: Any = _MISSING,
  minimum: float | None = None,
  maximum: float | None = None,
  above: float | None = None,
) -> Any:
  """A number, or a tuple of numbers, within [minimum, maximum] and > above."""
  limits = {"minimum": minimum, "maximum": maximum, "above": above}
  return dataclasses.field(default=default, metadata={"limits": limits})


def choice(*choices: Any, default: Any = _MISSING) -> Any:
  """One of `choices`, or a tuple of them."""
  return dataclasses.field(default=default, metadata={"choices": choices})


def duration(
  *,
  default: Any = _MISSING,
  prefix: str | None = None,
  units: tuple[str, ...] = DURATION_UNITS,
  above: float | None = None,
) -> Any:
  """A Duration, read from the keys `<prefix>_<unit>`.

  Args:
    default: the value without any of the keys; none makes one key required.
    prefix: None for the field's name; "" for keys that are the bare unit.
    units: those that make sense here.
    above: the value must be greater; at least zero is always asked.
  """
  metadata = {"prefix": prefix, "units": units, "limits": {"above": above}}
  return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
  """The optimizer and its schedule."""

  learning_rate: float = ranged(above=0.0)  # its peak
  # adam: decay in the gradient, of every parameter, as PyTorch's Adam has it.
  name: str = choice("adamw", "adam", "sgd", default="adamw")
  weight_decay: float = ranged(
    default=0.0, minimum=0.0
  )  # see optimizer.decayed
  warmup: Duration = duration(default=Duration(0, "steps"))  # linear, from 0
  schedule: str = choice("cosine", "constant", "step", default="cosine")
  # Of "step": when the rate is multiplied by decay_factor, each time.
  decay_percents: tuple[float, ...] = ranged(
    default=(), above=0.0, maximum=100.0
  )
  decay_factor: float = ranged(default=0.1, above=0.0, maximum=1.0)
  gradient_clip: float | None = ranged(default=1.0, above=0.0)  # global norm
  b1: float = ranged(default=0.9, minimum=0.0, maximum=1.0)  # sgd: momentum
  b2: float = ranged(default=0.999, minimum=0.0, maximum=1.0)
  # (regex on the parameter's path, learning-rate multiplier); the first that
  # matches counts, 0 freezes, a regex that matches nothing is an error.
  groups: tuple[tuple[str, float], ...] = ()
  ema_decay: float | None = ranged(default=None, above=0.0, maximum=1.0)

  def __post_init__(self):
    percents = self.decay_percents
    if (self.schedule == "step") != bool(percents):
      raise ValueError(
        f"schedule is {self.schedule!r} and decay_percents {percents}; give "
        "decay_percents with the schedule 'step' and only with it."
      )
    if list(percents) != sorted(set(percents)):
      raise ValueError(f"decay_percents must ascend, got {percents}.")
    for pattern, multiplier in self.groups:
      try:
        re.compile(pattern)
      except re.error as error:
        raise ValueError(f"groups: bad regex {pattern!r}: {error}.") from None
      if not 0.0 <= multiplier < math.inf:
        raise ValueError(
          f"groups: the multiplier of {pattern!r} must be finite and at least "
          f"0, got {multiplier}."
        )


@dataclasses.dataclass(frozen=True)
class MeshConfig:
  """Devices per mesh axis; one of them may be -1, the rest of the devices."""

  data: int = -1  # replicas
  fsdp: int = 1  # ways the parameters are split; splits the batch as well
  tensor: int = 1  # ways attention heads and hidden units are split
  fsdp_min_size: int = ranged(default=2**16, minimum=1)  # elements; else whole

  def __post_init__(self):
    sizes = {"data": self.data, "fsdp": self.fsdp, "tensor": self.tensor}
    for name, size in sizes.items():
      if size < 1 and size != -1:
        raise ValueError(f"{name} must be at least 1, or -1, got {size}.")
    if list(sizes.values()).count(-1) > 1:
      raise ValueError(f"only one mesh axis may be -1, got {sizes}.")


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
  """The schedule of checkpoints; the last step is always saved."""

  save_every: Duration = duration(default=Duration(10, "percent"), above=0.0)
  keep: int = ranged(default=2, minimum=1)  # newest good checkpoints


@dataclasses.dataclass(frozen=True)
class LoopConfig:
  """The length of training, of its log and of its evaluations."""

  # The whole run, read from `steps` or `epochs`; 0 trains nothing.
  length: Duration = duration(prefix="", units=("steps", "epochs"))
  log_every: Duration = duration(default=Duration(10, "steps"), above=0.0)
  eval_every: Duration | None = duration(default=None, above=0.0)  # and the end
  seed: int = ranged(default=0, minimum=0, maximum=2**32 - 1)
  # An update with a loss or gradient norm this many robust standard deviations
  # above the recent ones is skipped; None skips only what is not finite.
  outlier_deviations: float | None = ranged(default=20.0, above=0.0)
  # After so many skipped updates the run goes back to the last checkpoint
  # before them and leaves out the batches since; after so many times it stops.
  max_skipped_in_a_row: int = ranged(default=10, minimum=1)  # updates
  max_rollbacks: int = ranged(default=2, minimum=0)
  # Without progress for longer, or for ten times the 95th percentile of a step,
  # all processes end with the stacks of their threads; None waits for ever.
  stall_timeout_sec: float | None = ranged(default=120.0, above=0.0)
  tensorboard: bool = True  # event files beside metrics.jsonl
  profile_steps: int = ranged(default=0, minimum=0)  # traced after the tenth


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
  """The sections of every trainer's config that steer its run."""

  trainer: str
  optimizer: OptimizerConfig
  loop: LoopConfig
  checkpoint: CheckpointConfig = CheckpointConfig()
  mesh: MeshConfig = MeshConfig()


def resolve(cls: type, config: Any, path: str = "") -> Any:
  """Builds the frozen dataclass `cls` from `config`.

  Args:
    cls: the dataclass; nested dataclasses, Optional, tuples and dicts of
      strings are resolved into. A section that is left out is an empty one.
    config: a ConfigDict or any mapping. Only a key whose type allows it may be
      None; one of the keys of a duration then counts as absent.
    path: what stands before the keys in messages, like "optimizer".

  Raises:
    ConfigError: with all problems: unknown and missing keys, wrong types,
      values out of range.
  """
  problems: list[str] = []
  value = _resolve_dataclass(cls, config, path, problems)
  if problems:
    raise ConfigError(problems)
  return value


def resolve_sections(cls: type, config: Any, *names: str) -> list[Any]:
  """The sections `names` of `config`, each resolved as the field of `cls`."""
  hints = typing.get_type_hints(cls)
  return [resolve(hints[name], config[name], name) for name in names]


def as_dict(config: Any) -> Any:
  """Plain JSON values of a resolved config; `resolve` takes them back."""
  if dataclasses.is_dataclass(config):
    result = {}
    for field in dataclasses.fields(config):
      value = getattr(config, field.name)
      if isinstance(value, Duration):
        result[_duration_key(field, value.unit)] = value.value
      elif "units" not in field.metadata:  # a duration that is None is absent
        result[field.name] = as_dict(value)
    return result
  if isinstance(config, _MAPPINGS):
    return {str(key): as_dict(config[key]) for key in config}
  if isinstance(config, tuple | list):
    return [as_dict(value) for value in config]
  return config


def config_hash(config: Any) -> str:
  """A short stable hash of a config's values."""
  text = json.dumps(as_dict(config), sort_keys=True, allow_nan=False)
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def _resolve_dataclass(cls, config, path, problems):
  if isinstance(config, cls):
    return config
  if not isinstance(config, _MAPPINGS):
    problems.append(f"{_at(path)}: expected a section, got {config!r}.")
    return None
  given = {key: config[key] for key in config}
  hints = typing.get_type_hints(cls)
  num_problems = len(problems)
  values, known = {}, []
  for field in dataclasses.fields(cls):
    hint = hints[field.name]
    if is_duration(hint):
      keys = list(duration_keys(field).values())
      value = _resolve_duration(field, keys, given, path, problems)
    else:
      keys = [field.name]
      value = _resolve_field(field, hint, given, path, problems)
    known += keys
    if value is not _MISSING:
      values[field.name] = value
  for key in given:
    if key not in known:
      problems.append(
        f"{_at(path, key)}: unknown key; choose from {', '.join(known)}."
      )
  if len(problems) > num_problems:
    return None
  try:
    return cls(**values)
  except ValueError as error:
    problems.append(f"{_at(path)}: {error}")
    return None


def _resolve_field(field, hint, given, path, problems):
  """The field's value; _MISSING leaves the dataclass's own default."""
  value = given.get(field.name)
  at = _at(path, field.name)
  if field.name in given and value is None and not _allows_none(hint):
    problems.append(f"{at}: got None; give {_describe(hint)}.")
    return _MISSING
  if field.name not in given:
    if field.default is not _MISSING or field.default_factory is not _MISSING:
      return _MISSING
    if not dataclasses.is_dataclass(hint):
      problems.append(f"{at}: missing; give {_describe(hint)}.")
      return _MISSING
    value = {}
  num_problems = len(problems)
  value = _convert(hint, value, at, problems)
  if len(problems) == num_problems:
    _check_value(value, field.metadata, at, problems)
  return value


def _resolve_duration(field, keys, given, path, problems):
  present = [key for key in keys if given.get(key) is not None]
  at = _at(path)
  if len(present) > 1:
    problems.append(f"{at}: give only one of {', '.join(present)}.")
    return _MISSING
  if not present:
    if field.default is _MISSING:
      problems.append(f"{at}: missing; give exactly one of {', '.join(keys)}.")
    return _MISSING
  (key,) = present
  unit = field.metadata["units"][keys.index(key)]
  num_problems = len(problems)
  hint = int if unit == "steps" else float
  value: Any = _convert(hint, given[key], _at(path, key), problems)
  if len(problems) == num_problems:
    limits = dict(field.metadata["limits"])
    if limits["above"] is None:
      limits["minimum"] = 0
    if unit == "percent":
      limits["maximum"] = 100
    _check_value(value, {"limits": limits}, _at(path, key), problems)
  return Duration(value, unit)


def _convert(hint, value, at, problems):
  """Converts a value to the type of its hint, noting what does not fit."""
  origin, arguments = typing.get_origin(hint), typing.get_args(hint)
  result = value
  if origin in (typing.Union, types.UnionType):
    if value is not None:
      result = _convert(_without_none(hint), value, at, problems)
  elif dataclasses.is_dataclass(hint):
    result = _resolve_dataclass(hint, value, at, problems)
  elif origin is tuple:
    result = _convert_tuple(arguments, value, at, problems)
  elif origin is dict and isinstance(value, _MAPPINGS):
    result = {
      key: _convert(arguments[1], value[key], f"{at}.{key}", problems)
      for key in value
    }
  elif hint is float and _is_a(value, int):
    result = float(value)
  elif hint is not Any and not _is_a(value, hint):
    problems.append(f"{at}: expected {_describe(hint)}, got {value!r}.")
    result = None
  return result


def _is_a(value, hint) -> bool:
  """Checks a type as isinstance does, except that True is not a number."""
  return (
    isinstance(hint, type)
    and isinstance(value, hint)
    and (hint is bool or not isinstance(value, bool))
  )


def _convert_tuple(arguments, value, at, problems):
  if isinstance(value, str) or not isinstance(value, list | tuple):
    problems.append(f"{at}: expected a tuple, got {value!r}.")
    return None
  if arguments[-1] is Ellipsis:
    arguments = (arguments[0],) * len(value)
  if len(arguments) != len(value):
    problems.append(f"{at}: expected {len(arguments)} items, got {value!r}.")
    return None
  pairs = enumerate(zip(arguments, value, strict=True))
  return tuple(_convert(h, v, f"{at}[{i}]", problems) for i, (h, v) in pairs)


def _check_value(value, metadata, at, problems):
  """Appends to `problems` if `value` breaks the field's limits or choices."""
  if value is None:
    return
  if isinstance(value, tuple):
    for i, item in enumerate(value):
      _check_value(item, metadata, f"{at}[{i}]", problems)
    return
  choices = metadata.get("choices")
  if choices is not None and value not in choices:
    names = ", ".join(map(str, choices))
    problems.append(f"{at}: got {value!r}; choose from {names}.")
  if isinstance(value, float) and not math.isfinite(value):
    problems.append(f"{at}: must be finite, got {value}.")
    return
  words = {"minimum": "at least", "maximum": "at most", "above": "above"}
  limits = metadata.get("limits", {})
  limits = {k: v for k, v in limits.items() if v is not None}
  wrong = (
    ("minimum" in limits and value < limits["minimum"])
    or ("maximum" in limits and value > limits["maximum"])
    or ("above" in limits and value <= limits["above"])
  )
  if wrong:
    expected = " and ".join(f"{words[k]} {v}" for k, v in limits.items())
    problems.append(f"{at}: must be {expected}, got {value}.")


def is_duration(hint) -> bool:
  """Whether a field of this type is a Duration, or None instead of one."""
  return hint is Duration or Duration in typing.get_args(hint)


def duration_keys(field: dataclasses.Field) -> dict[str, str]:
  """Unit -> key of a Duration in the config."""
  return {unit: _duration_key(field, unit) for unit in field.metadata["units"]}


def _duration_key(field, unit: str) -> str:
  prefix = field.metadata["prefix"]
  prefix = field.name if prefix is None else prefix
  return f"{prefix}_{unit}" if prefix else unit


def _allows_none(hint) -> bool:
  return hint is Any or type(None) in typing.get_args(hint)


def _without_none(hint):
  """The X of X | None."""
  (inner,) = [a for a in typing.get_args(hint) if a is not type(None)]
  return inner


def _describe(hint: Any) -> str:
  if dataclasses.is_dataclass(hint):
    return f"a section ({getattr(hint, '__name__', hint)})"
  return str(hint) if typing.get_args(hint) else hint.__name__


def _at(path: str, key: str = "") -> str:
  return ".".join(filter(None, (path, key))) or "config"
