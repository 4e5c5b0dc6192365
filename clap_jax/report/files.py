"""Texts as files, and as cells of CSV files."""

import pathlib
from typing import Any

from clap_jax.storage import output

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def write_text(path: pathlib.Path, text: str) -> None:
  """Writes a file whole or not at all, line ends as they are in `text`.

  Lone surrogates, which names of files may hold, are escaped.
  """
  output.write_bytes(path, text.encode("utf-8", "backslashreplace"))


def csv_cell(value: Any) -> Any:
  """Escapes a text that spreadsheets would compute; numbers stay numbers."""
  if not isinstance(value, str):
    return value
  # The csv module quotes line feeds, but no lone carriage return.
  text = value.replace("\r\n", "\n").replace("\r", "\n")
  return f"'{text}" if value.startswith(_FORMULA_STARTS) else text
