"""Groups evaluation cards of results into common and differing entries."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from clap_jax.report import metric_names


@dataclasses.dataclass(frozen=True)
class Number:
  """A number with the entries of its card that differ from the others'."""

  encoder: str
  metric: str
  seed: int
  value: str
  entries: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Cards:
  """The cards of one task on one dataset."""

  common: tuple[tuple[str, str], ...]
  differing: tuple[str, ...]  # names of the differing entries
  numbers: tuple[Number, ...]


def by_place(
  rows: Sequence[Mapping[str, Any]],
) -> dict[tuple[str, str], Cards]:
  """Returns (dataset, task) -> the cards of its rows of results.json."""
  groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
  for row in rows:
    groups.setdefault((row["dataset"], row["task"]), []).append(row)
  return {place: _cards(group) for place, group in groups.items()}


def _cards(rows: Sequence[Mapping[str, Any]]) -> Cards:
  cards = [_flat(row) for row in rows]
  common, differing = [], []
  for key in dict.fromkeys(key for card in cards for key in card):
    values = {card.get(key, "–") for card in cards}
    if len(values) == 1:
      common.append((key, values.pop()))
    else:
      differing.append(key)
  numbers = [
    Number(
      encoder=row["encoder"],
      metric=metric_names.describe(row["metric"]).text,
      seed=row["seed"],
      value=metric_names.format_value(row["value"]),
      entries=tuple(card.get(key, "–") for key in differing),
    )
    for row, card in zip(rows, cards, strict=True)
  ]
  return Cards(tuple(common), tuple(differing), tuple(numbers))


def _flat(row: Mapping[str, Any]) -> dict[str, str]:
  """Returns the card as text, without values that the row states."""
  return {
    str(key): _text(value)
    for key, value in (row.get("card") or {}).items()
    if key not in ("encoder", "seed", "metric", "value") or row[key] != value
  }


def _text(value: Any) -> str:
  if isinstance(value, str):
    return value
  if value is None:
    return "none"
  if isinstance(value, bool):
    return "yes" if value else "no"
  if isinstance(value, Mapping):
    return ", ".join(f"{key}: {_text(item)}" for key, item in value.items())
  if isinstance(value, Sequence):
    return ", ".join(_text(item) for item in value) or "none"
  return json.dumps(value, default=str)
