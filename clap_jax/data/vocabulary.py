"""Tokenizes texts for imported text towers with `tokenizers`.

A text tower supports only the pieces that it was trained with. CLIP's byte
pairs and BERT's word pieces are stored as the library's JSON; `load`
distinguishes such a file from a SentencePiece model.
"""

import contextlib
import functools
import gzip
import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
import tokenizers

from clap_jax.data import tokenizer as tokenizer_lib
from clap_jax.storage import locations, placeholders, untrusted

_CLIP_BEGIN, _CLIP_END = "<|startoftext|>", "<|endoftext|>"
# Radford et al.'s pattern of words: contractions, letters, single digits, rest.
_CLIP_WORDS = (
  r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]"
  r"|[^\s\p{L}\p{N}]+"
)
_CLIP_MERGES = 48_894  # 49,408 pieces with those of one byte and the frame


# Texts that exercise parts of a file that are loaded lazily.
_PROBE = "A ﬁne Ünïcode tëxt, 12 ½ ａｂｃ \u200b\U0001f600\n"


class ForeignTokenizer:
  """Encodes texts like data.tokenizer.Tokenizer; thread-safe.

  Attributes:
    model: the JSON, as bytes.
    hash: sha256 of the model.
    vocab_size: number of pieces, including added ones.
  """

  def __init__(self, model: bytes):
    """Loads a model; raises a ValueError if it does not frame texts."""
    with _explained("not a tokenizer of `tokenizers`"):
      self._tokenizer = tokenizers.Tokenizer.from_buffer(model)
      self._tokenizer.no_padding()
      self._tokenizer.no_truncation()
      frame = self._tokenizer.encode("").ids
      self._tokenizer.encode(_PROBE)
    if len(frame) != 2:
      raise ValueError(
        f"the tokenizer makes {frame} of an empty text; expected one piece for "
        "the begin and one for the end"
      )
    self._begin, self._end = frame
    self.model = model
    self.hash = hashlib.sha256(model).hexdigest()
    self.vocab_size = self._tokenizer.get_vocab_size()
    self._pieces = functools.lru_cache(1 << 16)(self._encode_one)

  def encode(
    self, texts: Sequence[str], *, length: int
  ) -> tuple[np.ndarray, np.ndarray]:
    """Returns tokens int32 (n, length) and a mask bool (n, length)."""
    return tokenizer_lib.framed(
      [self._pieces(text) for text in texts],
      length=length,
      begin_id=self._begin,
      end_id=self._end,
    )

  def _encode_one(self, text: str) -> tuple[int, ...]:
    with _explained(f"the tokenizer cannot encode {text!r:.100}"):
      encoding = self._tokenizer.encode(text, add_special_tokens=False)
      return tuple(encoding.ids)


@contextlib.contextmanager
def _explained(problem: str) -> Iterator[None]:
  """Turns errors of the library into a ValueError.

  The library raises plain Exception, and PanicException, which is not even an
  Exception, if its own code fails on a file.
  """
  try:
    yield
  except BaseException as error:
    is_panic = type(error).__name__ == "PanicException"
    if not isinstance(error, Exception) and not is_panic:
      raise
    raise ValueError(f"{problem}: {error}") from error


Vocabulary = tokenizer_lib.Tokenizer | ForeignTokenizer


def load(path: locations.PathLike) -> Vocabulary:
  """Reads a model file of `clap tokenizer` or the JSON of an imported tower.

  Raises:
    FileNotFoundError: the file does not exist.
    ValueError: the file is neither.
  """
  path = locations.at(path)
  model = _read(path)
  make = ForeignTokenizer if model[:1] == b"{" else tokenizer_lib.Tokenizer
  try:
    return make(model)
  except ValueError as error:
    raise ValueError(f"{path}: {error}") from error


def from_vocabulary(path: locations.PathLike) -> ForeignTokenizer:
  """Reads tokenizer.json, vocab.txt, vocab.json with merges.txt, or merges
  alone (*.txt.gz) as OpenAI published those of CLIP.

  Raises:
    FileNotFoundError: a file is missing.
    ValueError: the file is none of these.
  """
  path = locations.at(path)
  if not path.exists():
    raise FileNotFoundError(f"The tokenizer file {path} is missing.")
  try:
    with _explained("no vocabulary"):
      if path.name == "vocab.txt":
        model = _word_pieces(path).to_str().encode()
      elif path.name == "vocab.json":
        model = _byte_pairs(path).to_str().encode()
      elif path.name.endswith(".txt.gz"):
        model = _merges_alone(path).to_str().encode()
      else:
        model = _read(path)
    return ForeignTokenizer(model)
  except ValueError as error:
    raise ValueError(f"{path}: {error}") from error


def _read(path: locations.Location) -> bytes:
  with untrusted.open_file(path, max_bytes=tokenizer_lib.MAX_BYTES) as file:
    placeholders.check(file, name=path)
    return file.read()


def _word_pieces(path: locations.Location) -> tokenizers.Tokenizer:
  """Makes BERT's tokenizer, uncased if the vocabulary has no upper case."""
  text = untrusted.read_text(path, max_bytes=tokenizer_lib.MAX_BYTES)
  words = text.splitlines()
  vocabulary = {word: index for index, word in enumerate(words)}
  missing = {"[CLS]", "[SEP]", "[UNK]"} - set(vocabulary)
  if missing:
    raise ValueError(f"{path} lacks {sorted(missing)}: no BERT vocabulary.")
  special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
  lowercase = not any(
    word != word.lower() for word in words if word not in special
  )
  made = tokenizers.Tokenizer(
    tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]")
  )
  made.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=lowercase)
  made.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
  made.post_processor = tokenizers.processors.BertProcessing(
    ("[SEP]", vocabulary["[SEP]"]), ("[CLS]", vocabulary["[CLS]"])
  )
  return made


def _byte_pairs(path: locations.Location) -> tokenizers.Tokenizer:
  """Makes CLIP's tokenizer: byte pairs of lower-cased words with </w>."""
  merges = path.with_name("merges.txt")
  if not merges.exists():
    raise FileNotFoundError(f"{path} has no merges.txt in the same folder.")
  pieces = untrusted.read_json(path, max_bytes=tokenizer_lib.MAX_BYTES)
  lines = untrusted.read_text(merges, max_bytes=tokenizer_lib.MAX_BYTES)
  pairs = [
    tuple(line.split(" "))
    for line in lines.splitlines()
    if line and not line.startswith("#version")
  ]
  return _clip_pieces(pieces, pairs, path)


def _merges_alone(path: locations.Location) -> tokenizers.Tokenizer:
  """Makes CLIP's tokenizer from merges, which number the pieces."""
  with (
    untrusted.open_file(path, max_bytes=tokenizer_lib.MAX_BYTES) as file,
    gzip.open(file) as unpacked,
  ):
    content = unpacked.read(tokenizer_lib.MAX_BYTES + 1)
  if len(content) > tokenizer_lib.MAX_BYTES:
    raise ValueError(f"{path} expands to more than {tokenizer_lib.MAX_BYTES}.")
  lines = untrusted.decode_text(content, name=path).splitlines()
  pairs = [tuple(line.split(" ")) for line in lines[1 : _CLIP_MERGES + 1]]
  if not pairs or any(len(pair) != 2 for pair in pairs):
    raise ValueError(f"{path} holds no merges of CLIP, two pieces per line.")
  letters = _letters()
  names = [*letters, *(f"{letter}</w>" for letter in letters)]
  names += ["".join(pair) for pair in pairs] + [_CLIP_BEGIN, _CLIP_END]
  pieces = {name: index for index, name in enumerate(names)}
  return _clip_pieces(pieces, pairs, path)


def _letters() -> list[str]:
  """Returns the characters that CLIP maps bytes to, in its order."""
  shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
  hidden = sorted(set(range(256)) - set(shown))
  return [*map(chr, shown), *(chr(256 + i) for i in range(len(hidden)))]


def _clip_pieces(
  pieces, pairs, path: locations.Location
) -> tokenizers.Tokenizer:
  model = tokenizers.models.BPE(
    pieces, pairs, unk_token=_CLIP_END, end_of_word_suffix="</w>"
  )
  made = tokenizers.Tokenizer(model)
  for piece in (_CLIP_BEGIN, _CLIP_END):
    if made.token_to_id(piece) is None:
      raise ValueError(f"{path} lacks {piece}: no CLIP vocabulary.")
  made.normalizer = tokenizers.normalizers.Sequence(
    [
      tokenizers.normalizers.NFC(),
      tokenizers.normalizers.Replace(tokenizers.Regex(r"\s+"), " "),
      tokenizers.normalizers.Lowercase(),
    ]
  )
  made.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
    [
      tokenizers.pre_tokenizers.Split(
        tokenizers.Regex(_CLIP_WORDS), behavior="removed", invert=True
      ),
      tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False),
    ]
  )
  made.post_processor = tokenizers.processors.RobertaProcessing(
    (_CLIP_END, made.token_to_id(_CLIP_END)),
    (_CLIP_BEGIN, made.token_to_id(_CLIP_BEGIN)),
    trim_offsets=False,
    add_prefix_space=False,
  )
  return made
