"""Hides held-out classes from training: their segments and their names.

Few-shot localization requires encoders that have never seen the novel classes.
Removing their segments is not enough: a clip of another action or of the
background may overlap one, and a caption may mention one.
"""

import re
from collections.abc import Collection, Sequence

from clap_jax.data.records import ExampleInfo

Span = tuple[float, float]

_ENDINGS = ("ing", "ed", "es", "s", "e")
_LEAST_STEM = 3  # minimum number of letters left by an ending
# Words that a class name shares with any sentence.
_EMPTY_WORDS = frozenset(
  (
    "a",
    "an",
    "and",
    "at",
    "for",
    "from",
    "in",
    "into",
    "of",
    "on",
    "or",
    "the",
    "to",
    "with",
  )
)


def hidden_spans(
  example: ExampleInfo, hidden_classes: frozenset[int]
) -> list[Span]:
  """Returns the segments of hidden classes, in seconds, sorted by start."""
  return sorted(
    (float(start_sec), float(end_sec))
    for (start_sec, end_sec), label in zip(
      example.segments, example.labels, strict=True
    )
    if int(label) in hidden_classes
  )


def free_spans(hidden: Sequence[Span], *, end_sec: float) -> list[Span]:
  """Returns the parts of [0, end_sec) outside of sorted hidden spans."""
  free, reached_sec = [], 0.0
  for start_sec, stop_sec in hidden:
    if start_sec > reached_sec:
      free.append((reached_sec, min(start_sec, end_sec)))
    reached_sec = max(reached_sec, stop_sec)
  if reached_sec < end_sec:
    free.append((reached_sec, end_sec))
  return free


def names_a_class(text: str, names: Collection[str]) -> bool:
  """Returns True if a text has all significant words of a class name.

  Words are compared without their endings, so that "she shaves a leg" names
  "Shaving legs". When in doubt, the text is hidden.
  """
  words = _stems(text)
  return any(stems and stems <= words for stems in map(_stems, names))


def _stems(text: str) -> frozenset[str]:
  spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text).lower()
  words = set(re.findall(r"[a-z0-9]+", spaced))
  return frozenset(map(_stem, words - _EMPTY_WORDS))


def _stem(word: str) -> str:
  for ending in _ENDINGS:
    if word.endswith(ending) and len(word) - len(ending) >= _LEAST_STEM:
      word = word.removesuffix(ending)
      break
  is_doubled = len(word) > _LEAST_STEM and word[-1] == word[-2]
  return word[:-1] if is_doubled else word
