"""Shapes of a train step without data, for compiling ahead.

Every trainer has `abstract_run(config, facts)`: its task and the shapes of its
global batch, without a dataset, features or a device.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from clap_jax import config as config_lib
from clap_jax import types
from clap_jax.training import task as task_lib


@dataclasses.dataclass(frozen=True)
class DataFacts:
  """Facts that training reads from the data; assumed where there is none."""

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
  """Facts from "vocab_size=512,num_classes=20"; others keep their defaults.

  Raises:
    ValueError: for an unknown name or a value that is no positive number.
  """
  values: dict[str, Any] = {}
  for item in filter(None, text.split(",")):
    name, _, value = item.partition("=")
    values[name] = int(value) if value.isdecimal() else value
  return config_lib.resolve(DataFacts, values, "facts")


def array(*shape: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(shape, dtype)


def pairs(batch_size: int) -> types.PairMetadata:
  """Shapes of a batch's pair metadata."""
  ids = array(batch_size, dtype=jnp.int32)
  seconds = array(batch_size)
  flags = array(batch_size, dtype=jnp.bool_)
  return types.PairMetadata(
    text_id=ids,
    class_id=ids,
    video_id=ids,
    clip_start_sec=seconds,
    clip_end_sec=seconds,
    caption_start_sec=seconds,
    caption_end_sec=seconds,
    is_action=flags,
    has_text=flags,
    generic_text=flags,
    valid=flags,
    action_share=seconds,
  )
