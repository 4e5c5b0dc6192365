"""What the documents tell a reader to type."""

import re
import shlex
import string
from collections.abc import Iterator
from typing import NamedTuple

from tests import conftest

ROOT = conftest.REPOSITORY
DOCUMENTS = sorted(
  path
  for pattern in (
    "*.md",
    "docs/**/*.md",
    "tfds_builders/*/*.md",
    "tests/*/*.md",
  )
  for path in ROOT.glob(pattern)
)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"(?<!`)`([^`]+)`(?!`)")
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
_LANGUAGES = ("bash", "sh")


class Command(NamedTuple):
  """One line of a fenced block, with the variables before it filled in."""

  document: str  # path from the repository's root
  section: str  # the heading that it stands under
  words: tuple[str, ...]

  @property
  def place(self) -> str:
    """Document and section, as in a link."""
    return f"{self.document}#{self.section}"

  @property
  def text(self) -> str:
    return shlex.join(self.words)


def read_commands() -> Iterator[Command]:
  """Every command of every fenced block, in the documents' order."""
  for path in DOCUMENTS:
    text = path.read_text(encoding="utf-8")
    for fence in FENCE.finditer(text):
      language, block = fence.groups()
      if language not in _LANGUAGES:
        continue
      *_, section = _HEADING.findall(FENCE.sub(_blank, text[: fence.start()]))
      for words in _lines(block):
        yield Command(str(path.relative_to(ROOT)), section, words)


def _blank(fence: re.Match) -> str:
  return "\n"  # a comment of a block is no heading


def _lines(block: str) -> Iterator[tuple[str, ...]]:
  variables: dict[str, str] = {}
  for line in block.replace("\\\n", " ").splitlines():
    filled = string.Template(line).safe_substitute(variables)
    words = shlex.split(filled, comments=True)
    if len(words) == 1 and re.match(r"\w+=", words[0]):  # name=value
      name, _, variables[name] = words[0].partition("=")
    elif words:
      yield tuple(words)


def inline() -> Iterator[tuple[str, str]]:
  """(document, code) of what stands in the text between backticks."""
  for document, codes in paragraphs():
    for code in codes:
      yield document, code


def paragraphs() -> Iterator[tuple[str, list[str]]]:
  """Document, and what stands between backticks in one of its paragraphs."""
  for path in DOCUMENTS:
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    for paragraph in re.split(r"\n\s*\n|\n(?=[*|] )", text):
      codes = [" ".join(code.split()) for code in _INLINE.findall(paragraph)]
      if codes:
        yield str(path.relative_to(ROOT)), codes
