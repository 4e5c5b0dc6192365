"""results.json: rows of numbers, each with its evaluation card."""

import pathlib
from collections.abc import Mapping
from typing import Any

from clap_jax.storage import locations, metadata, untrusted
from clap_jax.training import processes

RESULTS_FILE = "results.json"


def rows_of(
  metrics: Mapping[str, float],
  *,
  encoder: str,
  seed: int,
  dataset: str,
  split: str,
  task: str,
  card: Mapping[str, Any],
) -> list[dict]:
  """One row per metric, in the shape that results.json promises."""
  return [
    {
      "encoder": encoder,
      "seed": seed,
      "dataset": dataset,
      "split": split,
      "task": task,
      "metric": metric,
      "value": float(value),
      "card": dict(card),
    }
    for metric, value in metrics.items()
  ]


def write(directory: str | pathlib.Path, rows: list[dict]) -> pathlib.Path:
  """Writes <directory>/results.json whole or not at all."""
  path = locations.at(directory) / RESULTS_FILE
  write_json(path, {"rows": rows})
  return path


def write_json(path: pathlib.Path, document: Any) -> None:
  """Writes a document as `metadata.write_json`; the first process alone."""
  if processes.is_first():
    metadata.write_json(path, document)


def read(directory: str | pathlib.Path) -> list[dict]:
  """Reads the rows of <directory>/results.json; none without that file.

  Raises:
    ValueError: the file holds something else.
  """
  path = locations.at(directory) / RESULTS_FILE
  if not path.is_file():
    return []
  document = untrusted.read_json(path)
  rows = document.get("rows") if isinstance(document, dict) else None
  if not isinstance(rows, list) or not all(isinstance(r, dict) for r in rows):
    raise ValueError(
      f"{path} holds no results; expected an object with rows, a list of "
      "objects"
    )
  return rows
