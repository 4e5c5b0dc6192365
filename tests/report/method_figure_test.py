"""The figure of the method, in the page of a report and in the documents."""

import pathlib
from xml.etree import ElementTree

ROOT = pathlib.Path(__file__).parents[2]


def test_both_files_draw_the_same_figure():
  own, published = (
    ElementTree.fromstring((ROOT / path).read_text(encoding="utf-8"))
    for path in ("clap_jax/report/method.svg", "docs/method.svg")
  )
  assert "captions" in own.get("aria-label")
  # The page has a background of its own, and needs no namespace.
  drawn = [
    (node.tag.rpartition("}")[2], node.attrib, (node.text or "").strip())
    for node in published.iter()
    if node.get("class") != "paper"
  ]
  assert drawn == [
    (node.tag, node.attrib, (node.text or "").strip()) for node in own.iter()
  ]
