"""Describes a train step without data, for compiling ahead of time.

Every trainer has `abstract_run(config, facts)`: its task and the shapes of its
global batch, without a dataset, features or a device.
"""

import dataclasses
import typing
from typing import Any, NamedTuple

import jax

from clap_jax import config as config_lib
from clap_jax.training import task as task_lib


@dataclasses.dataclass(frozen=True)
class DataFacts:
  """Facts that training reads from the data; assumed without data."""

  vocab_size: int = config_lib.ranged(default=32_768, minimum=1)
  num_classes: int = config_lib.ranged(default=200, minimum=1)
  max_segments: int = config_lib.ranged(default=32, minimum=1)  # per video
  feature_width: int = config_lib.ranged(default=768, minimum=1)
  query_length: int = config_lib.ranged(default=40, minimum=1)  # tokens
  query_width: int = config_lib.ranged(default=512, minimum=1)


class AbstractRun(NamedTuple):
  """A run without its data."""

  task: task_lib.Task
  batch: Any  # of jax.ShapeDtypeStruct, the global batch


def parse_facts(text: str) -> DataFacts:
  """Parses "vocab_size=512,num_classes=20"; others keep their defaults.

  Raises:
    ValueError: a name is unknown, or a value is not a positive number.
  """
  values: dict[str, Any] = {}
  for item in filter(None, text.split(",")):
    name, _, value = item.partition("=")
    values[name] = int(value) if value.isdecimal() else value
  return config_lib.resolve(DataFacts, values, "facts")


def batch_of(cls: type, **sizes: int) -> Any:
  """Derives the shapes of a batch of types.py from its annotations.

  Args:
    **sizes: sizes of axes by name.
  """
  shapes = {}
  for name, hint in typing.get_type_hints(cls, include_extras=True).items():
    if hasattr(hint, "_fields"):
      shapes[name] = batch_of(hint, **sizes)
    else:
      dtype, *axes = hint.__metadata__[0].split()
      shape = tuple(sizes[a] if a in sizes else int(a) for a in axes)
      shapes[name] = jax.ShapeDtypeStruct(shape, dtype)
  return cls(**shapes)
