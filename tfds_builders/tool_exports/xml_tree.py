"""Parses untrusted XML without DTDs, entities or downloads."""

import dataclasses
import os
from collections.abc import Iterator
from xml.parsers import expat

from clap_jax.storage import untrusted
from tfds_builders.tool_exports.export import MAX_BYTES

_MAX_DEPTH = 50
_MAX_NODES = 20_000_000


@dataclasses.dataclass(slots=True)
class Node:
  """An element with its own text, without that of its children."""

  tag: str
  attributes: dict[str, str]
  line: int
  text: str = ""
  children: list["Node"] = dataclasses.field(default_factory=list)

  def get(self, name: str) -> str | None:
    return self.attributes.get(name)

  def child(self, *tags: str) -> "Node | None":
    """Returns the first descendant by this path of tags."""
    node = self
    for tag in tags:
      node = next((n for n in node.children if n.tag == tag), None)
      if node is None:
        return None
    return node

  def walk(self) -> Iterator["Node"]:
    """Yields the node and its descendants in file order."""
    waiting = [self]
    while waiting:
      node = waiting.pop()
      yield node
      waiting += reversed(node.children)


class _Builder:
  """Builds nodes from the parser's events."""

  def __init__(self, parser):
    self.root: Node | None = None
    self._open: list[Node] = []
    self._num_nodes = 0
    self._parser = parser

  def start(self, tag, attributes):
    self._num_nodes += 1
    if len(self._open) >= _MAX_DEPTH or self._num_nodes > _MAX_NODES:
      raise ValueError("too many elements, or nested too deeply")
    node = Node(tag, attributes, self._parser.CurrentLineNumber)
    if self._open:
      self._open[-1].children.append(node)
    else:
      self.root = node
    self._open.append(node)

  def end(self, tag):
    del tag
    self._open.pop()

  def text(self, data):
    if self._open:
      self._open[-1].text += data


def _refuse(*args):
  raise ValueError("a document type or an entity, which is not read")


def read(path: str | os.PathLike) -> Node:
  """Returns the root element.

  Raises:
    UntrustedFileError: the file cannot be opened safely or is too large.
    ValueError: not XML, or it has a document type, entities or too many
      elements.
  """
  content = untrusted.read_bytes(path, max_bytes=MAX_BYTES)
  parser = expat.ParserCreate()
  parser.buffer_text = True
  builder = _Builder(parser)
  parser.StartElementHandler = builder.start
  parser.EndElementHandler = builder.end
  parser.CharacterDataHandler = builder.text
  parser.StartDoctypeDeclHandler = _refuse
  parser.EntityDeclHandler = _refuse
  parser.ExternalEntityRefHandler = _refuse
  try:
    parser.Parse(content, True)
  except expat.ExpatError as error:
    raise ValueError(f"{path} is not XML: {error}") from error
  except ValueError as error:
    line = parser.CurrentLineNumber
    raise ValueError(f"{path}, line {line}: {error}") from error
  return builder.root
