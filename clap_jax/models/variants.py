"""Sizes of the towers: one table, named by the vision-transformer habit."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class TransformerSize:
  """Width, depth, heads and hidden width of a transformer."""

  width: int
  depth: int
  num_heads: int
  mlp_width: int


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
  "S": TransformerSize(width=384, depth=12, num_heads=6, mlp_width=1536),
  "B": TransformerSize(width=512, depth=12, num_heads=8, mlp_width=2048),
  "L": TransformerSize(width=768, depth=12, num_heads=12, mlp_width=3072),
}


def named_size(table: dict[str, TransformerSize], name: str) -> TransformerSize:
  """Looks a size up; raises ValueError with the choices when unknown."""
  if name not in table:
    raise ValueError(f"Unknown size {name!r}; choose one of {sorted(table)}.")
  return table[name]
