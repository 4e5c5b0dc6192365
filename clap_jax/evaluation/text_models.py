"""Encodes texts with an imported text tower."""

from collections.abc import Callable, Sequence
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np

from clap_jax.data import class_texts, vocabulary
from clap_jax.models import text_transformer, variants
from clap_jax.public_weights import cache
from clap_jax.storage import locations
from clap_jax.training import paths, weights

TOKENIZER_FILE = "tokenizer.json"
_TOWER = "text_tower"
_BATCH = 64


def class_vectors(
  directory: locations.PathLike,
) -> Callable[[Sequence[str]], np.ndarray]:
  """Returns an encoder of class names to unit vectors (c, p).

  A vector is the mean over prompts.

  Raises: see `text_vectors`.
  """
  vectors = text_vectors(directory)
  return lambda names: class_texts.mean_over_prompts(
    vectors(class_texts.prompted(names))
  )


def text_vectors(
  directory: locations.PathLike,
) -> Callable[[Sequence[str]], np.ndarray]:
  """Returns an encoder of texts to unit vectors (n, p).

  These are the pooled outputs of the tower, before any projection.

  Raises:
    FileNotFoundError: if the directory has no imported weights.
    ValueError: if the weights have no text tower.
  """
  directory = cache.directory_of(directory)
  arrays, metadata = weights.read(directory)
  settings = metadata["settings"]
  if _TOWER not in settings:
    raise ValueError(
      f"{directory} contains no text tower; import one, for example with `clap "
      "import MODEL --source bert`."
    )
  pieces = vocabulary.load(directory / TOKENIZER_FILE)
  length = settings["max_text_length"]
  model = text_transformer.TextTransformer(
    variants.TEXT_SIZES[settings["text_size"]],
    vocab_size=settings["vocab_size"],
    max_length=length,
    style=text_transformer.STYLES[settings[_TOWER]],
  )
  params = jax.tree.map(jnp.asarray, paths.nest(arrays)["params"][_TOWER])

  @jax.jit
  def pooled(tokens: np.ndarray, mask: np.ndarray) -> jax.Array:
    # Flax adds the state that `mutable` would return.
    output = model.apply({"params": params}, tokens, mask)
    return cast(text_transformer.TextOutput, output).pooled

  def vectors_of(texts: Sequence[str]) -> np.ndarray:
    tokens, mask = pieces.encode(texts, length=length)
    return class_texts.unit(in_batches(pooled, tokens, mask))

  return vectors_of


def in_batches(
  embed: Callable[[np.ndarray, np.ndarray], jax.Array],
  tokens: np.ndarray,
  mask: np.ndarray,
) -> np.ndarray:
  """Encodes texts (n, l) to (n, ...) in batches of one compiled size.

  Args:
    embed: compiled function (tokens, mask) -> (b, ...).
    tokens: int (n, l).
    mask: bool (n, l).
  """
  rows = []
  for start in range(0, len(tokens), _BATCH):
    pad = ((0, max(0, start + _BATCH - len(tokens))), (0, 0))
    take = slice(start, start + _BATCH)
    rows.append(embed(np.pad(tokens[take], pad), np.pad(mask[take], pad)))
  return np.concatenate(rows)[: len(tokens)]
