"""results.json: rows of numbers, each with its evaluation card."""

import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

from clap_jax.storage import locations, output, untrusted
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
  """Writes a file atomically; a file of the same content stays as it is.

  Of several processes the first one writes.

  What is not finite becomes null: JSON has no NaN.
  """
  if not processes.is_first():
    return
  text = json.dumps(without_nan(document), indent=1, allow_nan=False) + "\n"
  if path.is_file() and untrusted.read_text(path) == text:
    return
  output.write_text(path, text)


def without_nan(document: Any) -> Any:
  """JSON values with null for every number that is not finite."""
  if isinstance(document, Mapping):
    return {key: without_nan(value) for key, value in document.items()}
  if isinstance(document, list | tuple):
    return [without_nan(value) for value in document]
  if isinstance(document, float) and not math.isfinite(document):
    return None
  return document


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
