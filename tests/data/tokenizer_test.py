import numpy as np
import pytest

from clap_jax.data.tokenizer import BOS_ID, EOS_ID, PAD_ID, Tokenizer, train

TEXTS = [
  f"the {size} {colour} {shape} {verb}"
  for size in ("small", "large")
  for colour in ("red", "green", "blue")
  for shape in ("square", "circle", "triangle")
  for verb in ("slides left", "spins", "bounces twice")
]


def test_training_is_deterministic_and_capped(tmp_path):
  first = train(TEXTS, vocab_size=2000, path=tmp_path / "a.model")
  second = train(TEXTS[::-1], vocab_size=2000, path=tmp_path / "b.model")
  assert first.hash == second.hash == Tokenizer.load(tmp_path / "a.model").hash
  assert 10 < first.vocab_size < 2000
  assert {path.name for path in tmp_path.iterdir()} == {"a.model", "b.model"}
  with pytest.raises(ValueError, match="choose another vocab_size"):
    train(TEXTS, vocab_size=2000, path=tmp_path / "c", strict_vocab_size=True)
  with pytest.raises(ValueError, match="no text"):
    train([" "], vocab_size=100, path=tmp_path / "c")


def test_encoding(tmp_path):
  tokenizer = train(TEXTS, vocab_size=80, path=tmp_path / "a.model")
  texts = ["", "The Small  red square", "the small red square", TEXTS[0] * 9]
  tokens, mask = tokenizer.encode(texts, length=12)
  assert tokens.shape == mask.shape == (4, 12)
  assert tokens.dtype == np.int32 and mask.dtype == np.bool_
  assert tokens[0].tolist() == [BOS_ID, EOS_ID] + [PAD_ID] * 10
  np.testing.assert_array_equal(tokens[1], tokens[2])  # case and spaces
  assert mask[3].all() and tokens[3, 0] == BOS_ID and tokens[3, -1] == EOS_ID
  np.testing.assert_array_equal(mask, tokens != PAD_ID)
  assert tokens.max() < tokenizer.vocab_size
  with pytest.raises(ValueError, match="at least 2"):
    tokenizer.encode(texts, length=1)


def test_files_that_are_not_models(tmp_path):
  path = tmp_path / "x.model"
  path.write_bytes(b"not a model")
  with pytest.raises(ValueError, match=r"x\.model"):
    Tokenizer.load(path)
