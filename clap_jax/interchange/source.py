"""Defines a source of weights: its rules and the resulting towers."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

from clap_jax import config as config_lib
from clap_jax.interchange import rules as rules_lib
from clap_jax.models import variants

TOWERS = ("both", "video", "text")
# Help text by name on the command line, kept here because --help must not load
# the rules of all families.
FAMILIES = {
  "r2plus1d": "R(2+1)D-18/-34 of torchvision, IG-65M or TSP (.pth, "
  ".safetensors)",
  "clip": "both towers of CLIP with QuickGELU (OpenAI, Hugging Face)",
  "open_clip": "both towers of CLIP with GELU (open_clip, Hugging Face)",
  "bert": "text encoders of the BERT and MiniLM family (Hugging Face names)",
  "videomae": "video transformers in the form of VideoMAE",
  "videoprism": "VideoPrism's video encoder (flax .npz)",
}
# The same for heads on features; see import_heads.py.
HEAD_FAMILIES = {
  "actionformer": "a head of public ActionFormer (.pth.tar), with --config",
  "moment_detr": "a head of public Moment-DETR (.ckpt), with --config",
}


@dataclasses.dataclass(frozen=True)
class Options:
  """Settings that weights do not contain; None uses the source's default."""

  # Of a clip, where the tower learns positions in time.
  num_frames: int = config_lib.ranged(default=16, minimum=1)
  # That weights for images are spread over.
  tubelet_frames: int = config_lib.ranged(default=2, minimum=1)
  # Tokens; fewer positions, less work.
  max_text_length: int | None = config_lib.ranged(default=None, minimum=2)
  num_heads: int | None = config_lib.ranged(default=None, minimum=1)
  # Of those that the source has.
  tower: str = config_lib.choice(*TOWERS, default="both")


@dataclasses.dataclass(frozen=True)
class Source:
  """A family of public weights.

  Attributes:
    name: name on the command line, a key of FAMILIES.
    rules: ordered rules; see rules.convert.
    covers: regex of our names that must get a value.
    settings: maps (tensors, options) to the fields of DualEncoderConfig that
      the weights determine, for `options.tower`.
    fillings: values of parameters that the family lacks.
    requires: the only supported values of config.json and
      open_clip_config.json, by dotted keys; missing keys are accepted.
    clips: config values of the clips that the weights were trained on.
    recoloured: maps (tensors, colour normalization) to tensors with the same
      outputs under CLIP's normalization.
    clips_said: maps keys of `clips` to keys of a config.json that overrides
      them.
  """

  name: str
  rules: tuple[rules_lib.Rule, ...]
  covers: str
  settings: Callable[[rules_lib.Tensors, Options], dict[str, Any]]
  fillings: tuple[rules_lib.Filling, ...] = ()
  requires: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  clips: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  clips_said: Mapping[str, str] = dataclasses.field(default_factory=dict)
  recoloured: Callable[..., rules_lib.Tensors] | None = None


def find(tensors: rules_lib.Tensors, pattern: str, *, axes: int):
  """Returns the tensor whose whole key matches.

  Raises:
    ValueError: if not exactly one matches, or it has another number of axes.
  """
  found = [key for key in tensors if re.fullmatch(pattern, key)]
  if len(found) != 1:
    some = ", ".join(sorted(tensors)[:8])
    raise ValueError(
      f"Expected one tensor named like {pattern!r}, found {found}. Is this the "
      f"right source? The file has {some}, ..."
    )
  tensor = tensors[found[0]]
  if tensor.ndim != axes:
    raise ValueError(
      f"{found[0]} has shape {tensor.shape}, expected {axes} axes. Is this the "
      "right source?"
    )
  return tensor


def count(tensors: rules_lib.Tensors, pattern: str) -> int:
  """Counts the distinct first groups of the keys that match a pattern."""
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
  """Returns the name of a size in `table`; raises a ValueError without one."""
  return variants.name_of_size(
    table,
    variants.TransformerSize(
      width=width, depth=depth, num_heads=num_heads, mlp_width=mlp_width
    ),
  )


def block_rules(
  prefix: str, target: str, names: dict[str, str]
) -> tuple[rules_lib.Rule, ...]:
  """Returns rules of the linear layers and norms of a stack of blocks.

  Args:
    prefix: regex before the names in a block, with the layer as its group.
    target: name of our stack, without the layer.
    names: maps regexes of the source's layers to our names of linear layers,
      or of norms if they begin with "norm". Norms may have TensorFlow's gamma
      and beta, as in bert-base-uncased.
  """
  made = []
  for theirs, ours in names.items():
    key, name = rf"{prefix}{theirs}", f"{target}/{ours}"
    if ours.startswith("norm"):
      made += [
        rules_lib.same(rf"{key}\.(?:weight|gamma)", rf"{name}/scale[\1]"),
        rules_lib.same(rf"{key}\.(?:bias|beta)", rf"{name}/bias[\1]"),
      ]
    else:
      made += [
        rules_lib.transposed(rf"{key}\.weight", rf"{name}/kernel[\1]"),
        rules_lib.same(rf"{key}\.bias", rf"{name}/bias[\1]"),
      ]
  return tuple(made)
