"""Tokenizes texts with SentencePiece at a fixed length."""

import functools
import hashlib
import io
from collections.abc import Iterable, Sequence

import numpy as np
import sentencepiece

from clap_jax.data import records
from clap_jax.storage import locations, output, untrusted

PAD_ID, UNKNOWN_ID, BOS_ID, EOS_ID = 0, 1, 2, 3
MAX_BYTES = 256 << 20  # of a model
_MAX_CACHED_TEXTS = 1 << 16


def train(
  texts: Iterable[str],
  *,
  vocab_size: int,
  path: locations.PathLike,
  strict_vocab_size: bool = False,
) -> "Tokenizer":
  """Trains a unigram model and writes it to `path`.

  Deterministic: the texts are sorted first and one thread is used, so that the
  same texts in any order give the same file.

  Args:
    texts: the training texts, repetitions counted.
    vocab_size: maximum number of pieces; fewer if the corpus does not support
      as many, unless `strict_vocab_size`.
    path: the model file, replaced atomically.
    strict_vocab_size: whether to raise rather than use fewer pieces.

  Raises:
    ValueError: there is no text, or the corpus does not support the vocabulary.
  """
  corpus = sorted(text.strip() for text in texts if text.strip())
  if not corpus:
    raise ValueError("no text to train a tokenizer on; expected at least one")
  model = io.BytesIO()
  try:
    sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(corpus),
      model_writer=model,
      vocab_size=vocab_size,
      model_type="unigram",
      hard_vocab_limit=strict_vocab_size,
      normalization_rule_name="nmt_nfkc_cf",  # folds case
      character_coverage=1.0,
      num_threads=1,
      shuffle_input_sentence=False,
      pad_id=PAD_ID,
      unk_id=UNKNOWN_ID,
      bos_id=BOS_ID,
      eos_id=EOS_ID,
      minloglevel=2,
    )
  except (RuntimeError, OSError) as error:
    raise ValueError(
      f"cannot train {vocab_size} pieces on {len(corpus)} texts: {error}; "
      "choose another vocab_size"
    ) from error
  path = locations.at(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  output.write_bytes(path, model.getvalue())
  return Tokenizer(model.getvalue())


def train_on_split(
  dataset: records.Dataset,
  *,
  out: locations.PathLike,
  split: str,
  vocab_size: int,
  overwrite: bool = False,
) -> "Tokenizer":
  """Trains SentencePiece on a split's captions and class names.

  Raises:
    FileExistsError: `out` exists and `overwrite` is off.
  """
  out = locations.at(out)
  if out.exists() and not overwrite:
    raise FileExistsError(f"{out} already exists; pass --overwrite.")
  infos = dataset.examples(split)
  texts = [text for info in infos for _, _, text in info.captions]
  texts += dataset.label_names
  out.parent.mkdir(parents=True, exist_ok=True)
  return train(texts, vocab_size=vocab_size, path=out)


class Tokenizer:
  """Encodes texts; thread-safe.

  Attributes:
    hash: sha256 of the model, to compare the vocabularies of runs.
    vocab_size: number of pieces, including pad (0), unknown, begin and end.
  """

  def __init__(self, model: bytes):
    """Loads a model; raises a ValueError if `train` did not write it."""
    try:
      self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
      special = (
        self._processor.pad_id(),
        self._processor.unk_id(),
        self._processor.bos_id(),
        self._processor.eos_id(),
      )
    except (RuntimeError, OSError, TypeError, MemoryError) as error:
      raise ValueError(f"not a SentencePiece model: {error}") from error
    if special != (PAD_ID, UNKNOWN_ID, BOS_ID, EOS_ID):
      raise ValueError(
        f"the model's pad, unknown, begin, end ids are {special}, expected "
        f"{(PAD_ID, UNKNOWN_ID, BOS_ID, EOS_ID)}; train it with clap_jax"
      )
    self.model = model
    self.hash = hashlib.sha256(model).hexdigest()
    self.vocab_size = self._processor.vocab_size()
    self._pieces = functools.lru_cache(_MAX_CACHED_TEXTS)(self._encode_one)

  @classmethod
  def load(cls, path: locations.PathLike) -> "Tokenizer":
    """Reads a model file.

    Raises:
      ValueError: the file is not a model written by `train`.
    """
    try:
      return cls(untrusted.read_bytes(locations.at(path), max_bytes=MAX_BYTES))
    except ValueError as error:
      raise ValueError(f"{path}: {error}") from error

  def encode(
    self, texts: Sequence[str], *, length: int
  ) -> tuple[np.ndarray, np.ndarray]:
    """Returns tokens int32 (n, length) and a mask bool (n, length).

    Every row begins with the begin piece and ends with the end piece, also when
    it is cut to the length; an empty text has only these two.
    """
    return framed(
      [self._pieces(text) for text in texts],
      length=length,
      begin_id=BOS_ID,
      end_id=EOS_ID,
    )

  def _encode_one(self, text: str) -> tuple[int, ...]:
    return tuple(self._processor.encode(text, out_type=int))


def framed(
  pieces: Sequence[Sequence[int]], *, length: int, begin_id: int, end_id: int
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the pieces of texts as tokens and mask, (n, length) each.

  Every row begins with the begin piece and ends with the end piece, also when
  it is cut to the length.
  """
  if length < 2:
    raise ValueError(f"length is {length}; expected at least 2")
  tokens = np.full((len(pieces), length), PAD_ID, np.int32)
  mask = np.zeros((len(pieces), length), bool)
  for row, valid, text in zip(tokens, mask, pieces, strict=True):
    kept = text[: length - 2]
    row[: len(kept) + 2] = (begin_id, *kept, end_id)
    valid[: len(kept) + 2] = True
  return tokens, mask
