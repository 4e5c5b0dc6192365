"""Writes text files of reports."""

import pathlib

from clap_jax.storage import output


def write_text(path: pathlib.Path, text: str) -> None:
  """Writes a file whole or not at all, line ends as they are in `text`.

  Lone surrogates, which names of files may hold, are escaped.
  """
  output.write_bytes(path, text.encode("utf-8", "backslashreplace"))
