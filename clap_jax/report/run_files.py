"""Reads the files of a run into the content of its report."""

import json
import math
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from clap_jax.metrics import diagnosis, protocols
from clap_jax.metrics.tables import DetectionTable, SegmentTable
from clap_jax.report import content, diagnosis_figures
from clap_jax.storage import untrusted

_MAX_METRICS_BYTES = 8 << 30
_ROW_TYPES = {
  "encoder": str,
  "seed": int,
  "dataset": str,
  "split": str,
  "task": str,
  "metric": str,
  "value": (int, float, type(None)),
}


def check_result_rows(rows: Iterable[Mapping[str, Any]]) -> None:
  """Checks the rows of a results.json document.

  Raises:
    ValueError: a row lacks a key, or has a value of another type.
  """
  for index, row in enumerate(rows):
    missing = [key for key in _ROW_TYPES if key not in row]
    if missing:
      raise ValueError(
        f"Row {index} of the results lacks {missing}; it has {sorted(row)}."
      )
    for key, kind in _ROW_TYPES.items():
      if not isinstance(row[key], kind):
        raise ValueError(
          f"Row {index} of the results: {key} is {row[key]!r:.60}; expected "
          f"{_type_names(kind)}."
        )


def _type_names(kind: type | tuple[type, ...]) -> str:
  kinds = kind if isinstance(kind, tuple) else (kind,)
  return " or ".join(one.__name__ for one in kinds)


def _entries(path: str | pathlib.Path) -> Iterator[dict]:
  with untrusted.open_file(path, max_bytes=_MAX_METRICS_BYTES) as lines:
    for line in lines:
      try:
        entry = json.loads(line)
      except (ValueError, RecursionError):
        continue
      if isinstance(entry, dict):
        yield entry


def curve(path: str | pathlib.Path, key: str, *, name: str) -> content.Curve:
  """Reads the scalar `key` of a metrics.jsonl file over its steps.

  If a resumed run wrote a step twice, the last value counts; a line cut off by
  a crash is ignored.
  """
  values = {}
  for entry in _entries(path):
    if key in entry and "step" in entry:
      value = entry[key]
      values[entry["step"]] = math.nan if value is None else float(value)
  steps = sorted(values)
  return content.Curve(
    name=name, steps=tuple(steps), values=tuple(values[s] for s in steps)
  )


def scalar_keys(path: str | pathlib.Path) -> tuple[str, ...]:
  """Lists the scalars of a metrics.jsonl file at any step, in order."""
  keys: dict[str, None] = {}
  for entry in _entries(path):
    keys |= dict.fromkeys(entry)
  return tuple(key for key in keys if key != "step")


def diagnosed(
  predictions: DetectionTable,
  truth: SegmentTable,
  *,
  protocol: protocols.Protocol,
  duration_sec: Mapping[str, float] | None,
  name: str,
  where: str,
) -> content.Diagnosed:
  """Diagnoses predictions.

  Args:
    truth: annotations of the split.
    duration_sec: video -> length; None leaves coverage out.
    where: dataset and split.
  """
  bins = diagnosis.bins_of(protocol, truth, duration_sec=duration_sec)
  units = {"length": " s", "coverage": "", "num_instances": ""}
  return content.Diagnosed(
    name=name,
    where=where,
    diagnosis=diagnosis.diagnose(
      predictions, truth, protocol, duration_sec=duration_sec, bins=bins
    ),
    bin_notes={
      key: diagnosis_figures.bin_note(
        bounds, names=diagnosis.SIZE_NAMES, unit=units[key]
      )
      for key, bounds in bins.items()
    },
  )


def segments(
  predictions: Iterable[Mapping[str, Any]],
) -> tuple[content.Segment, ...]:
  """Converts dicts of start_sec, end_sec, label or query, and score."""
  return tuple(
    content.Segment(
      start_sec=float(entry["start_sec"]),
      end_sec=float(entry["end_sec"]),
      label=str(entry.get("label") or entry.get("query") or ""),
      score=None if entry.get("score") is None else float(entry["score"]),
    )
    for entry in predictions
  )
