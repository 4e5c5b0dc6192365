"""Tokenizers of others that are damaged, or are no files at all."""

import base64
import json
import os

import numpy as np
import pytest

from clap_jax.data import tokenizer, vocabulary

CHARSMAPS = {
  "too short": b"\x00",
  "a size beyond its end": (1 << 31).to_bytes(4, "little") + bytes(64),
  "zeros": bytes(1028),
  "ones": (1024).to_bytes(4, "little") + b"\xff" * 2048,
  "odd": (6).to_bytes(4, "little") + bytes(range(9)),
}


def document(normalizer=None, **changes):
  words = ["[UNK]", "[CLS]", "[SEP]", "a"]
  return {
    "version": "1.0",
    "added_tokens": [],
    "normalizer": normalizer,
    "pre_tokenizer": {"type": "BertPreTokenizer"},
    "post_processor": {
      "type": "BertProcessing",
      "sep": ["[SEP]", 2],
      "cls": ["[CLS]", 1],
    },
    "decoder": None,
    "truncation": None,
    "padding": None,
    "model": {
      "type": "WordPiece",
      "unk_token": "[UNK]",
      "continuing_subword_prefix": "##",
      "max_input_chars_per_word": 100,
      "vocab": {word: index for index, word in enumerate(words)},
    },
  } | changes


def test_the_document_is_a_tokenizer(tmp_path):
  (tmp_path / "tokenizer.json").write_text(json.dumps(document()))
  loaded = vocabulary.load(tmp_path / "tokenizer.json")
  assert loaded.encode(["a"], length=4)[0].tolist() == [[1, 3, 2, 0]]


@pytest.mark.parametrize("name", CHARSMAPS)
def test_tables_of_characters_that_are_none(tmp_path, name):
  """The library's own code fails on them, outside of Exception."""
  table = base64.b64encode(CHARSMAPS[name]).decode()
  made = document({"type": "Precompiled", "precompiled_charsmap": table})
  path = tmp_path / "tokenizer.json"
  path.write_text(json.dumps(made))
  for load in (vocabulary.load, vocabulary.from_vocabulary):
    try:
      load(path).encode(["a text", "ﬁne"], length=8)
    except ValueError as error:
      assert "tokenizer" in str(error)


@pytest.mark.parametrize(
  "content",
  [
    b"{" * 100_000,
    b'{"a":' * 100_000,
    b"{}",
    json.dumps(document(model={"type": "WordPiece"})).encode(),
    json.dumps(document(model=None)).encode(),
    b"\x80\x02K\x01.",
    b"\x00" * 1000,
    b"\xff" * 1000,
    b"",
    b"<!DOCTYPE html><html></html>",
    b"version https://git-lfs.github.com/spec/v1\n",
  ],
)
def test_files_that_are_not_tokenizers(tmp_path, content):
  path = tmp_path / "tokenizer.json"
  path.write_bytes(content)
  for load in (vocabulary.load, vocabulary.from_vocabulary):
    with pytest.raises(ValueError, match=r"tokenizer\.json"):
      load(path)
  with pytest.raises(ValueError, match=r"tokenizer\.json"):
    tokenizer.Tokenizer.load(path)


def test_damaged_models_of_sentencepiece(tmp_path):
  trained = tokenizer.train(
    ["a square slides in", "a circle fades out"] * 4,
    vocab_size=40,
    path=tmp_path / "good",
  )
  rng = np.random.default_rng(0)
  for number in range(60):
    model = bytearray(trained.model)
    if number % 3 == 0:
      del model[rng.integers(len(model)) :]
    else:
      for place in rng.integers(len(model), size=1 + number % 5):
        model[place] = rng.integers(256)
    path = tmp_path / "bad"
    path.write_bytes(model)
    try:
      vocabulary.load(path).encode(["a square slides"], length=8)
    except ValueError as error:
      assert "bad" in str(error)


@pytest.mark.parametrize(
  "name", ["tokenizer.json", "vocab.txt", "vocab.json", "merges.txt"]
)
def test_pipes_are_not_tokenizers(tmp_path, name):
  (tmp_path / "vocab.json").write_text("{}")
  (tmp_path / "merges.txt").write_text("")
  (tmp_path / name).unlink(missing_ok=True)
  os.mkfifo(tmp_path / name)
  asked = "vocab.json" if name == "merges.txt" else name
  with pytest.raises(ValueError, match="not a regular file"):
    vocabulary.from_vocabulary(tmp_path / asked)


@pytest.mark.parametrize(
  "content", ["[]", '{"a": "x"}', '{"a": -1}', '{"a": 1e99}', "{" * 100_000]
)
def test_vocabularies_that_are_none(tmp_path, content):
  (tmp_path / "vocab.json").write_text(content)
  (tmp_path / "merges.txt").write_text("#version: 0.2\na b c\n")
  with pytest.raises(ValueError, match=r"vocab\.json"):
    vocabulary.from_vocabulary(tmp_path / "vocab.json")
