"""Reads and writes results.json: rows with evaluation cards."""

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
  """Returns one row per metric, in the format of results.json."""
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


def write(
  directory: locations.PathLike, rows: list[dict]
) -> locations.Location:
  """Writes <directory>/results.json atomically."""
  path = locations.at(directory) / RESULTS_FILE
  write_json(path, {"rows": rows})
  return path


def write_json(path: locations.Location, document: Any) -> None:
  """Writes JSON with `metadata.write_json`, on the first process only."""
  if processes.is_first():
    metadata.write_json(path, document)


def read(directory: locations.PathLike) -> list[dict]:
  """Reads the rows of <directory>/results.json; none if it is missing.

  Raises:
    ValueError: the file has other content.
  """
  path = locations.at(directory) / RESULTS_FILE
  if not path.is_file():
    return []
  document = untrusted.read_json(path)
  rows = document.get("rows") if isinstance(document, dict) else None
  if not isinstance(rows, list) or not all(isinstance(r, dict) for r in rows):
    raise ValueError(
      f"{path} is not a results file; expected an object with rows, a list of "
      "objects"
    )
  return rows
