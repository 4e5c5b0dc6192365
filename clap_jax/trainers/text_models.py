"""Class names as vectors of a text tower that `clap import` has written."""

import functools
import pathlib
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from clap_jax.data import clips, vocabulary
from clap_jax.models import text_transformer, variants
from clap_jax.training import paths, weights

TOKENIZER_FILE = "tokenizer.json"
_TOWER = "text_tower"
_BATCH = 64


def class_vectors(
  directory: str | pathlib.Path,
) -> Callable[[Sequence[str]], np.ndarray]:
  """Class names -> unit vectors (c, p): the mean over the label prompts.

  The pooled output of the tower is taken, before any projection.

  Raises:
    FileNotFoundError: no imported weights there.
    ValueError: the weights have no text tower.
  """
  directory = pathlib.Path(directory)
  arrays, facts = weights.read(directory)
  settings = facts["settings"]
  if _TOWER not in settings:
    raise ValueError(
      f"{directory} holds no text tower; import one, for example with `clap "
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
  pooled = jax.jit(
    lambda tokens, mask: model.apply({"params": params}, tokens, mask).pooled
  )

  def embed(texts: Sequence[str]) -> np.ndarray:
    tokens, mask = pieces.encode(list(texts), length=length)
    rows = []
    for start in range(0, len(texts), _BATCH):
      pad = ((0, max(0, start + _BATCH - len(texts))), (0, 0))
      take = slice(start, start + _BATCH)
      rows.append(pooled(np.pad(tokens[take], pad), np.pad(mask[take], pad)))
    return _unit(np.concatenate(rows)[: len(texts)])

  return functools.partial(_mean_over_prompts, embed)


def _mean_over_prompts(embed, names: Sequence[str]) -> np.ndarray:
  prompts = clips.LABEL_PROMPTS
  words = [clips.readable_label(name) for name in names]
  vectors = embed([prompt.format(w) for w in words for prompt in prompts])
  return _unit(vectors.reshape(len(names), len(prompts), -1).mean(axis=1))


def _unit(x: np.ndarray) -> np.ndarray:
  return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-6)
