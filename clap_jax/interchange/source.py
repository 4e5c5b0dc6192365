"""A source of weights: its rules and the resulting tower."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

from clap_jax import config as config_lib
from clap_jax.interchange import rules as rules_lib
from clap_jax.models import variants

TOWERS = ("both", "video", "text")
# Name on the command line -> one line for --help, where loading the rules of
# every family would take longer than printing.
FAMILIES = {
  "r2plus1d": "R(2+1)D-18/-34 of torchvision, IG-65M or TSP (.pth, "
  ".safetensors)",
  "clip": "both towers of CLIP with QuickGELU (OpenAI, Hugging Face)",
  "open_clip": "both towers of CLIP with GELU (open_clip, Hugging Face)",
  "bert": "text encoders of the BERT and MiniLM family (Hugging Face names)",
  "videomae": "video transformers in the form of VideoMAE",
  "videoprism": "VideoPrism's video encoder (flax .npz)",
}
# Sources of heads on features, likewise; see import_heads.py.
HEAD_FAMILIES = {
  "actionformer": "a head of public ActionFormer (.pth.tar), with --config",
  "moment_detr": "a head of public Moment-DETR (.ckpt), with --config",
}


@dataclasses.dataclass(frozen=True)
class Options:
  """Options that weights do not state; None takes the source's own."""

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
    name: on the command line, out of FAMILIES.
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
    recoloured: (tensors, scale of colours) -> tensors that give with CLIP's
      scale what these give with that one.
    clips_said: key of `clips` -> key of a config.json beside the weights that
      says another value.
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
  """The tensor whose whole key matches.

  Raises:
    ValueError: if there is none, or more than one, or if it has not that many
      axes.
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
  """Counts the different first groups of the keys that match a pattern."""
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
) -> tuple[rules_lib.Rule, ...]:
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
        rules_lib.same(rf"{key}\.(?:weight|gamma)", rf"{name}/scale[\1]"),
        rules_lib.same(rf"{key}\.(?:bias|beta)", rf"{name}/bias[\1]"),
      ]
    else:
      made += [
        rules_lib.transposed(rf"{key}\.weight", rf"{name}/kernel[\1]"),
        rules_lib.same(rf"{key}\.bias", rf"{name}/bias[\1]"),
      ]
  return tuple(made)
