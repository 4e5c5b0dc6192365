"""Vocabularies of CLIP and BERT through `tokenizers`."""

import gzip
import json

import numpy as np
import pytest

from clap_jax.data import tokenizer, vocabulary
from tests.public_weights import stand_ins

BERT_WORDS = [
  "[PAD]",
  "[UNK]",
  "[CLS]",
  "[SEP]",
  "[MASK]",
  "a",
  "man",
  "run",
  "##ning",
  "!",
]


@pytest.fixture
def bert(tmp_path):
  path = tmp_path / "vocab.txt"
  path.write_text("\n".join(BERT_WORDS) + "\n")
  return vocabulary.from_vocabulary(path)


@pytest.fixture
def clip(tmp_path):
  letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
  pieces = [*letters, *(f"{x}</w>" for x in letters), "!</w>", "ma", "man</w>"]
  pieces += ["<|startoftext|>", "<|endoftext|>"]
  ids = {piece: index for index, piece in enumerate(pieces)}
  (tmp_path / "vocab.json").write_text(json.dumps(ids))
  (tmp_path / "merges.txt").write_text("#version: 0.2\nm a\nma n</w>\n")
  return vocabulary.from_vocabulary(tmp_path / "vocab.json"), ids


def test_word_pieces(bert):
  tokens, mask = bert.encode(["A man running!", "zebra"], length=8)
  assert tokens.tolist() == [[2, 5, 6, 7, 8, 9, 3, 0], [2, 1, 3, 0, 0, 0, 0, 0]]
  assert mask.sum(axis=1).tolist() == [7, 3]
  assert bert.vocab_size == len(BERT_WORDS)


def test_byte_pairs(clip):
  pieces, ids = clip
  tokens, mask = pieces.encode(["A  Man!", ""], length=6)
  begin, end = ids["<|startoftext|>"], ids["<|endoftext|>"]
  expected = [begin, ids["a</w>"], ids["man</w>"], ids["!</w>"], end, 0]
  assert tokens[0].tolist() == expected
  assert tokens[1, :2].tolist() == [begin, end]
  assert mask.sum(axis=1).tolist() == [5, 2]


def test_a_text_that_is_cut_keeps_its_end(bert):
  tokens, mask = bert.encode(["a man a man a man"], length=4)
  assert tokens.tolist() == [[2, 5, 6, 3]]
  assert mask.all()


def test_what_is_written_is_read_back(bert, tmp_path):
  path = tmp_path / "tokenizer.model"
  path.write_bytes(bert.model)
  again = vocabulary.load(path)
  assert isinstance(again, vocabulary.ForeignTokenizer)
  assert (again.hash, again.vocab_size) == (bert.hash, bert.vocab_size)
  texts = ["a man running", "!"]
  for one, two in zip(
    bert.encode(texts, length=6), again.encode(texts, length=6), strict=True
  ):
    np.testing.assert_array_equal(one, two)


def test_sentencepiece_is_still_the_default(tmp_path):
  path = tmp_path / "tokenizer.model"
  tokenizer.train(["the square spins"] * 3, vocab_size=20, path=path)
  assert isinstance(vocabulary.load(path), tokenizer.Tokenizer)


@pytest.mark.parametrize(
  ("name", "body", "message"),
  [
    ("vocab.txt", "a\nman\n", r"lacks \['\[CLS\]'"),
    ("tokenizer.json", "{}", "not a tokenizer"),
    ("vocab.json", "{}", "no merges.txt"),
  ],
)
def test_other_files(tmp_path, name, body, message):
  (tmp_path / name).write_text(body)
  with pytest.raises((ValueError, FileNotFoundError), match=message):
    vocabulary.from_vocabulary(tmp_path / name)


def test_merges_alone_number_the_pieces_as_openai_does(tmp_path):
  path = tmp_path / "bpe_simple_vocab_16e6.txt.gz"
  size = stand_ins.write_pieces(path)
  made = vocabulary.from_vocabulary(path)
  assert made.vocab_size == size
  tokens, mask = made.encode(["A long JUMP!", "é"], length=8)
  first = {pair: 512 + i for i, pair in enumerate(stand_ins.merges())}
  # Letters are numbered from "!", and again at the end of a word.
  assert tokens[0, : mask[0].sum()].tolist() == [
    size - 2,
    256 + ord("a") - ord("!"),
    first["lon", "g</w>"],
    first["jum", "p</w>"],
    256,
    size - 1,
  ]
  # The two bytes of UTF-8 come as the letters that stand for them.
  assert mask[1].sum() == 4


@pytest.mark.parametrize(
  "content",
  [
    b"no archive",
    gzip.compress(b"", mtime=0),
    gzip.compress(b"version\na b c\n", mtime=0),
  ],
)
def test_merges_that_are_none(tmp_path, content):
  path = tmp_path / "bpe.txt.gz"
  path.write_bytes(content)
  with pytest.raises(ValueError, match=r"bpe\.txt\.gz"):
    vocabulary.from_vocabulary(path)


def test_merges_that_unpack_without_end(tmp_path, monkeypatch):
  monkeypatch.setattr(tokenizer, "MAX_BYTES", 1000)
  path = tmp_path / "bpe.txt.gz"
  path.write_bytes(gzip.compress(b"a b\n" * 10_000, 9))
  with pytest.raises(ValueError, match="expands"):
    vocabulary.from_vocabulary(path)
