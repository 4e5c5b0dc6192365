"""Texts as files."""

import os
import pathlib


def write_text(path: pathlib.Path, text: str) -> None:
  """Writes a file whole or not at all, line ends as they are in `text`."""
  partial = path.with_name(f"{path.name}.partial")
  partial.write_text(text, encoding="utf-8", newline="")
  os.replace(partial, path)
