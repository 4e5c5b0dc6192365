"""Names the leaves of a pytree: "tower/block/kernel"."""

from collections.abc import Mapping
from typing import Any

import jax

SEPARATOR = "/"


def name_of(key_path: tuple) -> str:
  """Returns the name of a leaf; that of the empty path is ""."""
  return jax.tree_util.keystr(key_path, simple=True, separator=SEPARATOR)


def names(tree: Any) -> Any:
  """Returns the tree with each leaf replaced by its name."""
  return jax.tree_util.tree_map_with_path(lambda path, _: name_of(path), tree)


def flatten(tree: Any) -> dict[str, Any]:
  """Returns the leaves by name, in the order of the tree.

  Raises:
    ValueError: two leaves have the same name.
  """
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  flat = {name_of(path): leaf for path, leaf in leaves}
  if len(flat) != len(leaves):
    raise ValueError("Two leaves of the tree have the same name.")
  return flat


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
  """Nests leaves by name into dicts, the inverse of `flatten`."""
  nested: dict[str, Any] = {}
  for name, leaf in flat.items():
    *parents, last = name.split(SEPARATOR)
    node = nested
    for parent in parents:
      node = node.setdefault(parent, {})
    node[last] = leaf
  return nested
