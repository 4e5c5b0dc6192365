"""Defines named sizes of towers."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class TransformerSize:
  """Width, depth, heads and hidden width of a transformer."""

  width: int
  depth: int
  num_heads: int
  mlp_width: int


@dataclasses.dataclass(frozen=True)
class BlockStyle:
  """Variants of published transformer blocks."""

  activation: str = "gelu_tanh"  # a key of layers.ACTIVATIONS
  norm_epsilon: float = 1e-6
  norm_after: bool = False  # after the residual sum, as in BERT
  causal: bool = False  # a token attends to itself and those before it
  logit_cap: float = 0.0  # bound on attention's logits, by tanh; 0: none
  # All implementations of attention give the same result.
  attention: str = "whole"  # a key of layers.ATTENTIONS
  query_chunk: int = 0  # queries per chunk with "chunked"


PLAIN_BLOCK = BlockStyle()

# "micro" is for unit tests, "tiny" for training on a CPU; S, B and L are the
# sizes of Dosovitskiy et al., "An Image is Worth 16x16 Words", table 1 (S as
# in Touvron et al., DeiT).
VIDEO_SIZES = {
  "micro": TransformerSize(width=16, depth=1, num_heads=2, mlp_width=32),
  "tiny": TransformerSize(width=64, depth=3, num_heads=4, mlp_width=256),
  "mini": TransformerSize(width=96, depth=4, num_heads=4, mlp_width=384),
  "S": TransformerSize(width=384, depth=12, num_heads=6, mlp_width=1536),
  "B": TransformerSize(width=768, depth=12, num_heads=12, mlp_width=3072),
  "L": TransformerSize(width=1024, depth=24, num_heads=16, mlp_width=4096),
}

TEXT_SIZES = {
  "micro": TransformerSize(width=16, depth=1, num_heads=2, mlp_width=32),
  "tiny": TransformerSize(width=64, depth=2, num_heads=4, mlp_width=256),
  "mini": TransformerSize(width=128, depth=3, num_heads=4, mlp_width=512),
  "minilm": TransformerSize(width=384, depth=6, num_heads=12, mlp_width=1536),
  "minilm_12": TransformerSize(
    width=384, depth=12, num_heads=12, mlp_width=1536
  ),
  "S": TransformerSize(width=384, depth=12, num_heads=6, mlp_width=1536),
  "B": TransformerSize(width=512, depth=12, num_heads=8, mlp_width=2048),
  "L": TransformerSize(width=768, depth=12, num_heads=12, mlp_width=3072),
  "H": TransformerSize(width=1024, depth=24, num_heads=16, mlp_width=4096),
}


def name_of_size(
  table: dict[str, TransformerSize], size: TransformerSize
) -> str:
  """Returns the name of a size; raises a ValueError if it has none."""
  for name, known in table.items():
    if known == size:
      return name
  raise ValueError(f"Unknown size {size}; expected one of {table}.")


def named_size(table: dict[str, TransformerSize], name: str) -> TransformerSize:
  """Returns a size by name; raises a ValueError if unknown."""
  return named(table, name, what="size")


def named(table: dict[str, Any], name: str, *, what: str) -> Any:
  """Returns an entry by name; raises a ValueError if unknown."""
  if name not in table:
    raise ValueError(f"Unknown {what} {name!r}; choose one of {sorted(table)}.")
  return table[name]


@dataclasses.dataclass(frozen=True)
class R2Plus1DSize:
  """Blocks, widths and norms of an R(2+1)D network.

  The width between the convolutions over space and over time gives both the
  parameters of one full 3 x 3 x 3 convolution. Public networks compute it for
  each convolution, or once per block from the block's input.
  """

  depths: tuple[int, ...]  # blocks per layer
  widths: tuple[int, ...]  # output channels per layer
  stem_widths: tuple[int, int]  # between both convolutions, and after
  mid_width_per_convolution: bool
  norm_epsilon: float
  norm_momentum: float  # weight of the old running average

  def mid_widths(self, in_width: int, out_width: int) -> tuple[int, int]:
    """Returns the inner widths of a block's two convolutions."""
    first = mid_width(in_width, out_width)
    if self.mid_width_per_convolution:
      return first, mid_width(out_width, out_width)
    return first, first


def mid_width(in_width: int, out_width: int) -> int:
  """Computes the inner width; see Tran et al., section 3.5."""
  return 27 * in_width * out_width // (9 * in_width + 3 * out_width)


R2PLUS1D_SIZES = {
  # For unit tests: a small one with all features of the large ones.
  "r2plus1d_micro": R2Plus1DSize(
    depths=(1, 2),
    widths=(8, 12),
    stem_widths=(5, 8),
    mid_width_per_convolution=True,
    norm_epsilon=1e-3,
    norm_momentum=0.1,
  ),
  # torchvision's; TSP uses it unchanged.
  "r2plus1d_18": R2Plus1DSize(
    depths=(2, 2, 2, 2),
    widths=(64, 128, 256, 512),
    stem_widths=(45, 64),
    mid_width_per_convolution=False,
    norm_epsilon=1e-5,
    norm_momentum=0.9,
  ),
  # IG-65M's and TSP's; epsilon and momentum are those of Caffe2.
  "r2plus1d_34": R2Plus1DSize(
    depths=(3, 4, 6, 3),
    widths=(64, 128, 256, 512),
    stem_widths=(45, 64),
    mid_width_per_convolution=True,
    norm_epsilon=1e-3,
    norm_momentum=0.1,
  ),
}
