"""Reads exports of ELAN: tab-delimited text and .eaf."""

import re
import urllib.parse

from clap_jax.storage import text_tables
from tfds_builders.tool_exports import xml_tree
from tfds_builders.tool_exports.export import MAX_BYTES, Export

_MS_PER_SEC = 1000.0
# Time formats that ELAN writes in parallel, the most exact first.
_FORMATS = (("msec", "ms"), ("ss.msec", "sec"), ("hh:mm:ss.ms", "sec"))
_TIME = re.compile(r"(begin|end|duration)\s*time\b\W*(.*)|(duration)\W*(.*)")
_FIXED = ("tier", "participant", "annotator", "file", "file name", "file path")
_CLOCK = re.compile(r"\d+:\d+:\d+\.\d+")

_COMMA_TIME = re.compile(r"[\d:]*\d,\d+")


def read(export: Export) -> None:
  """Reads text or .eaf, depending on the extension.

  Raises:
    ValueError: the file is neither.
  """
  if export.request.path.suffix.lower() == ".eaf":
    _read_eaf(export)
  else:
    _read_text(export)


def _read_text(export):
  request = export.request
  text = text_tables.read_text(
    request.path, encoding=request.encoding, max_bytes=MAX_BYTES
  )
  first = next(filter(str.strip, text_tables.split_lines(text)), "")
  delimiter = text_tables.sniff_delimiter(first, known=frozenset())
  rows = text_tables.parse_rows(
    text, name=request.path, delimiter=delimiter, quotes=delimiter != "\t"
  )
  header = None
  for line, cells in rows:
    where = f"line {line}"
    if header is None:
      header = _Header(cells)
      if header.has_times:
        continue
    if header.has_times:
      header.add_row(export, _with_points(cells, delimiter), where)
    else:
      _add_bare_row(export, _with_points(cells, delimiter), where)


def _with_points(cells: list[str], delimiter: str) -> list[str]:
  """Returns the cells; times get a decimal point instead of a comma."""
  if delimiter == ",":
    return cells
  return [
    cell.replace(",", ".") if _COMMA_TIME.fullmatch(cell) else cell
    for cell in cells
  ]


class _Header:
  """Columns of times and texts in a header."""

  def __init__(self, cells: list[str]):
    self.times: dict[str, dict[str, int]] = {}  # format -> begin, end -> column
    self.texts: dict[int, str] = {}
    self.video = None
    for column, cell in enumerate(cells):
      name = cell.casefold()
      match = _TIME.match(name)
      if match:
        kind, form = match[1] or match[3], match[2] or match[4] or ""
        self.times.setdefault(form.strip(), {})[kind] = column
      elif name in ("file path", "file name", "file"):
        self.video = column
      elif name and name not in _FIXED:
        self.texts[column] = cell
    self.has_times = any(
      {"begin", "end"} <= set(t) for t in self.times.values()
    )
    # "Annotation" is the text of every row; otherwise each tier is a column.
    own = [c for c, n in self.texts.items() if n.casefold() == "annotation"]
    self.texts = {c: self.texts[c] for c in own} or self.texts

  def add_row(self, export, cells, where):
    cells = [*cells, *[""] * (max(self.texts, default=0) + 1 - len(cells))]
    video = cells[self.video] if self.video is not None else None
    try:
      times = self._seconds(cells)
    except (ValueError, IndexError) as error:
      export.reject(video, str(error) or "a cell is missing", where=where)
      return
    texts = [cells[column] for column in self.texts if cells[column]]
    if not texts:
      export.reject(video, "no annotation text", where=where)
    for text in texts:
      export.add(_from_url(video), *times, text, where=where)

  def _seconds(self, cells):
    for form, unit in _FORMATS:
      columns = self.times.get(form)
      if columns and {"begin", "end"} <= set(columns):
        scale = _MS_PER_SEC if unit == "ms" else 1.0
        return [
          text_tables.seconds(cells[columns[k]]) / scale
          for k in ("begin", "end")
        ]
    columns = next(t for t in self.times.values() if {"begin", "end"} <= set(t))
    return [
      text_tables.seconds(cells[columns[key]]) for key in ("begin", "end")
    ]


def _add_bare_row(export, cells, where):
  """Adds a row without header: tier, [participant,] begin, end, ..., text."""
  clocks = [i for i, cell in enumerate(cells) if _CLOCK.fullmatch(cell)]
  if len(clocks) < 2:
    clocks = [i for i, cell in enumerate(cells) if _is_plain_time(cell)]
  texts = [cell for cell in cells[max(clocks, default=0) + 1 :] if cell]
  if len(clocks) < 2 or not texts:
    export.reject(
      None, "expected tier, begin, end and text, parted by tabs", where=where
    )
    return
  begin, end = (cells[i] for i in clocks[:2])
  if not _CLOCK.fullmatch(begin) and "." not in begin + end:
    times = [float(begin) / _MS_PER_SEC, float(end) / _MS_PER_SEC]
    export.note("whole numbers are read as milliseconds, as ELAN writes them")
    export.add(None, *times, texts[-1], where=where)
    return
  export.add(None, begin, end, texts[-1], where=where)


def _is_plain_time(cell):
  return re.fullmatch(r"\d+(\.\d+)?", cell) is not None


def _read_eaf(export):
  root = xml_tree.read(export.request.path)
  if root.tag != "ANNOTATION_DOCUMENT":
    raise ValueError(
      f"{export.request.path}: the root is <{root.tag}>; an .eaf file has "
      "<ANNOTATION_DOCUMENT>"
    )
  media = [node for node in root.walk() if node.tag == "MEDIA_DESCRIPTOR"]
  names = [
    _from_url(m.get("RELATIVE_MEDIA_URL") or m.get("MEDIA_URL")) for m in media
  ]
  video = names[0] if names else None
  if len(names) > 1:
    export.note(f"of {len(names)} media files the first is taken: {video}")
  slots = {
    node.get("TIME_SLOT_ID"): node.get("TIME_VALUE")
    for node in root.walk()
    if node.tag == "TIME_SLOT"
  }
  spans, referring = {}, []
  for tier in root.children:
    if tier.tag != "TIER":
      continue
    for node in tier.walk():
      where = f"line {node.line}, tier {tier.get('TIER_ID')}"
      text = "".join(
        child.text for child in node.children if child.tag == "ANNOTATION_VALUE"
      ).strip()
      if node.tag == "ALIGNABLE_ANNOTATION":
        ends = [slots.get(node.get(f"TIME_SLOT_REF{i}")) for i in (1, 2)]
        spans[node.get("ANNOTATION_ID")] = ends
        _add_aligned(export, video, ends, text, where)
      elif node.tag == "REF_ANNOTATION":
        referring.append((node, text, where))
  parents = {
    n.get("ANNOTATION_ID"): n.get("ANNOTATION_REF") for n, *_ in referring
  }
  for node, text, where in referring:
    parent, num_steps = node.get("ANNOTATION_REF"), 0
    while parent in parents and num_steps <= len(parents):
      parent, num_steps = parents[parent], num_steps + 1
    _add_aligned(export, video, spans.get(parent, (None, None)), text, where)


def _add_aligned(export, video, ends, text, where):
  if not text:
    export.reject(video, "no annotation text", where=where)
  elif None in ends:
    export.reject(video, "not aligned: a time slot has no time", where=where)
  else:
    try:
      times = [text_tables.seconds(end) / _MS_PER_SEC for end in ends]
    except ValueError as error:
      export.reject(video, str(error), where=where)
      return
    export.add(video, *times, text, where=where)


def _from_url(address: str | None) -> str | None:
  """Returns the path of a file: or relative address, or else the text."""
  if address and address.startswith(("file:", "./", "../")):
    return urllib.parse.unquote(address.removeprefix("file:"))
  return address
