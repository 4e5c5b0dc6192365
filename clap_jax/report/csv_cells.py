"""Cells of CSV files that are opened in spreadsheets."""

from typing import Any

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def harmless(value: Any) -> Any:
  """Escapes a text that spreadsheets would compute; numbers stay numbers."""
  if not isinstance(value, str):
    return value
  # The csv module quotes line feeds, but no lone carriage return.
  text = value.replace("\r\n", "\n").replace("\r", "\n")
  return f"'{text}" if value.startswith(_FORMULA_STARTS) else text
