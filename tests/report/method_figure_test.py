"""The figure is a valid file of its own and a clean element of the page."""

from xml.etree import ElementTree

from clap_jax.report import method_figure

_SVG = "{http://www.w3.org/2000/svg}"


def test_standalone_figure_is_valid_svg_with_words():
  root = ElementTree.fromstring(method_figure.method_figure_svg())
  assert root.tag == f"{_SVG}svg"
  assert "captions" in root.get("aria-label")
  positives = [
    node
    for node in root.iter(f"{_SVG}rect")
    if node.get("class") == "pull" and float(node.get("width")) > 20
  ]
  assert len(positives) == 4  # each of the four captions has its clip


def test_inline_figure_needs_no_namespace():
  inline = method_figure.method_figure_svg(standalone=False)
  assert "http" not in inline
  assert ElementTree.fromstring(inline).tag == "svg"
