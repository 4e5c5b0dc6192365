"""What a source of weights is: its rules, and the tower they make."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

from clap_jax.interchange import rules
from clap_jax.models import variants


@dataclasses.dataclass(frozen=True)
class Options:
  """What weights alone do not say; None takes the source's own."""

  num_frames: int = 16  # of a clip, where the tower learns positions in time
  tubelet_frames: int = 2  # that weights for images are spread over
  max_text_length: int | None = None  # tokens; fewer positions, less work
  num_heads: int | None = None
  tower: str = "both"  # of those the source has; one of TOWERS


TOWERS = ("both", "video", "text")


@dataclasses.dataclass(frozen=True)
class Source:
  """A family of public weights.

  Attributes:
    name: on the command line.
    about: one line for --help.
    rules: ordered; see rules.convert.
    covers: regex on our names: every parameter it finds must get a value.
    settings: (tensors, options) -> fields of DualEncoderConfig that the weights
      decide, for `options.tower`.
    fillings: of parameters that the family lacks.
    requires: what a config.json or open_clip_config.json beside the weights
      must say where it says anything, nested keys joined by dots: the tower
      here is built for these values alone.
    clips: keys of the config with values: how the clips were made that the
      weights have seen.
    clips_said: key of `clips` -> key of a config.json beside the weights that
      says another value.
  """

  name: str
  about: str
  rules: tuple[rules.Rule, ...]
  covers: str
  settings: Callable[[rules.Tensors, Options], dict[str, Any]]
  fillings: tuple[rules.Filling, ...] = ()
  requires: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  clips: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  clips_said: Mapping[str, str] = dataclasses.field(default_factory=dict)


def find(tensors: rules.Tensors, pattern: str):
  """The tensor whose whole key matches.

  Raises:
    ValueError: if there is none, or more than one.
  """
  found = [key for key in tensors if re.fullmatch(pattern, key)]
  if len(found) != 1:
    some = ", ".join(sorted(tensors)[:8])
    raise ValueError(
      f"Expected one tensor named like {pattern!r}, found {found}. Is this the "
      f"right source? The file has {some}, ..."
    )
  return tensors[found[0]]


def count(tensors: rules.Tensors, pattern: str) -> int:
  """How many different first groups the keys that match `pattern` have."""
  matches = (re.fullmatch(pattern, key) for key in tensors)
  return len({match[1] for match in matches if match})


def size_name(
  table: dict[str, variants.TransformerSize],
  *,
  width: int,
  depth: int,
  mlp_width: int,
  num_heads: int,
) -> str:
  """The name that `table` has for a size; ValueError if it has none."""
  return variants.name_of_size(
    table,
    variants.TransformerSize(
      width=width, depth=depth, num_heads=num_heads, mlp_width=mlp_width
    ),
  )


def block_rules(
  prefix: str, target: str, names: dict[str, str]
) -> tuple[rules.Rule, ...]:
  """Rules of the linear layers and norms of a stack of blocks.

  Args:
    prefix: regex before the block's own names, with the layer as its group.
    target: our stack, without the layer.
    names: regex of a layer there -> our name of a linear layer or, where it
      begins with "norm", of a norm. Norms may have TensorFlow's gamma and beta,
      as bert-base-uncased does.
  """
  made = []
  for theirs, ours in names.items():
    key, name = rf"{prefix}{theirs}", f"{target}/{ours}"
    if ours.startswith("norm"):
      made += [
        rules.same(rf"{key}\.(?:weight|gamma)", rf"{name}/scale[\1]"),
        rules.same(rf"{key}\.(?:bias|beta)", rf"{name}/bias[\1]"),
      ]
    else:
      made += [
        rules.transposed(rf"{key}\.weight", rf"{name}/kernel[\1]"),
        rules.same(rf"{key}\.bias", rf"{name}/bias[\1]"),
      ]
  return tuple(made)
