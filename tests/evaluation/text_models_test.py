"""Class names by an imported text tower: means over prompts, clear errors."""

import jax
import numpy as np
import pytest

from clap_jax.data import clips
from clap_jax.data import tokenizer as tokenizer_lib
from clap_jax.evaluation import text_models
from clap_jax.models import text_transformer, variants
from clap_jax.training import paths, weights

LENGTH = 12
TEXTS = ["a video of spins", "the action is fades", "this is slides"]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
  """(directory as `clap import` writes it, texts -> pooled vectors)."""
  directory = tmp_path_factory.mktemp("tower")
  path = directory / text_models.TOKENIZER_FILE
  tokenizer_lib.train(TEXTS * 8, vocab_size=40, path=path)
  pieces = tokenizer_lib.Tokenizer(path.read_bytes())
  settings = {
    "text_tower": "bert",
    "text_size": "micro",
    "vocab_size": pieces.vocab_size,
    "max_text_length": LENGTH,
  }
  model = text_transformer.TextTransformer(
    variants.TEXT_SIZES["micro"],
    vocab_size=pieces.vocab_size,
    max_length=LENGTH,
    style=text_transformer.STYLES["bert"],
  )
  tokens, mask = pieces.encode(TEXTS, length=LENGTH)
  params = jax.jit(model.init)(jax.random.key(0), tokens, mask)["params"]
  arrays = paths.flatten({"params": {"text_tower": params}})
  weights.write(directory, arrays, {"settings": settings})

  def pooled(texts):
    inputs = pieces.encode(texts, length=LENGTH)
    return np.asarray(model.apply({"params": params}, *inputs).pooled)

  return directory, pooled


def unit(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_a_class_is_the_mean_of_its_prompts(written):
  directory, pooled = written
  names = ["spins", "LongJump", *(f"name_{i}" for i in range(11))]
  got = text_models.class_vectors(directory)(names)
  for row, word in enumerate(("spins", "long jump")):
    texts = [prompt.format(word) for prompt in clips.LABEL_PROMPTS]
    expected = unit(unit(pooled(texts)).mean(axis=0))
    np.testing.assert_allclose(got[row], expected, atol=1e-5)
  assert got.shape == (13, variants.TEXT_SIZES["micro"].width)


def test_weights_without_a_text_tower_are_refused(tmp_path):
  with pytest.raises(FileNotFoundError, match="clap import"):
    text_models.class_vectors(tmp_path)
  weights.write(tmp_path, {"params/x": np.zeros(1)}, {"settings": {}})
  with pytest.raises(ValueError, match="contains no text tower"):
    text_models.class_vectors(tmp_path)
