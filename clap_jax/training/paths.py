"""Names the leaves of a pytree: "tower/block/kernel"."""

from collections.abc import Mapping
from typing import Any

import jax

SEPARATOR = "/"


def name_of(key_path: tuple) -> str:
  """The name of one leaf; the empty path is named ""."""
  return jax.tree_util.keystr(key_path, simple=True, separator=SEPARATOR)


def names(tree: Any) -> Any:
  """The same tree with each leaf replaced by its name."""
  return jax.tree_util.tree_map_with_path(lambda path, _: name_of(path), tree)


def flatten(tree: Any) -> dict[str, Any]:
  """Name -> leaf, in the tree's own order.

  Raises:
    ValueError: if two leaves have one name.
  """
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  flat = {name_of(path): leaf for path, leaf in leaves}
  if len(flat) != len(leaves):
    raise ValueError("Two leaves of the tree have the same name.")
  return flat


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
  """Name -> leaf as nested dicts, the inverse of `flatten` for such trees."""
  nested: dict[str, Any] = {}
  for name, leaf in flat.items():
    *parents, last = name.split(SEPARATOR)
    node = nested
    for parent in parents:
      node = node.setdefault(parent, {})
    node[last] = leaf
  return nested
