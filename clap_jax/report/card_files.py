"""Model and data cards: Markdown filled from files."""

import pathlib
from collections.abc import Mapping
from typing import Any

import jinja2

_FOLDER = pathlib.Path(__file__).parent


def model_card(facts: Mapping[str, Any]) -> str:
  """The Markdown of a model card; `facts` are the template's names."""
  return _filled("model_card.md", facts)


def data_card(facts: Mapping[str, Any]) -> str:
  """The Markdown of a data card; `facts` are the template's names."""
  return _filled("data_card.md", facts)


def _filled(name: str, facts: Mapping[str, Any]) -> str:
  made = jinja2.Environment(
    loader=jinja2.FileSystemLoader(_FOLDER),
    autoescape=False,  # Markdown; see `cell` for what could break a table
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    finalize=lambda value: cell(value) if isinstance(value, str) else value,
  )
  return made.get_template(name).render(**facts)


def cell(text: str) -> str:
  """A text on one line that neither ends a cell nor opens a tag."""
  text = " ".join(text.split())
  return text.replace("|", "\\|").replace("<", "&lt;")
