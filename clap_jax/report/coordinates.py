"""Draws parallel coordinates: settings and results of runs."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from clap_jax.report import sweep_table

_WIDTH, _HEIGHT, _TOP, _BOTTOM, _SIDE = 860, 320, 44, 30, 70


def shown(value: Any) -> str:
  if value is None:
    return ""
  if isinstance(value, float):
    return f"{value:.4g}" if math.isfinite(value) else "undefined"
  return str(value)


def parallel_coordinates(table: sweep_table.SweepTable) -> Markup:
  """Draws a line per finished run across the axes of overrides and metric.

  Numbers have a linear axis, or a logarithmic one if they span a factor of
  twenty; other values are spread evenly. Returns "" for fewer than two runs.
  """
  entries = [e for e in table.ranked if math.isfinite(table.value(e))]
  if len(entries) < 2 or not table.metric:
    return Markup("")
  columns = {
    key: [entry.overrides.get(key) for entry in entries] for key in table.keys
  }
  columns[table.metric] = [table.value(entry) for entry in entries]
  places = {key: _places(values) for key, values in columns.items()}
  step = (_WIDTH - 2 * _SIDE) / max(len(columns) - 1, 1)
  xs = [_SIDE + step * index for index in range(len(columns))]
  parts = [
    _axis(x, key, columns[key], places[key])
    for x, key in zip(xs, columns, strict=True)
  ]
  values = [table.value(entry) for entry in entries]
  low, high = min(values), max(values)
  for index, entry in reversed(list(enumerate(entries))):  # the best on top
    good = (values[index] - low) / (high - low) if high > low else 1.0
    points = " ".join(
      f"{x:.1f},{_y(places[key][index]):.1f}"
      for x, key in zip(xs, columns, strict=True)
    )
    parts.append(
      Markup(
        '<polyline points="{}" fill="none" stroke="hsl({:.0f} 65% 45%)" '
        'stroke-opacity="{:.2f}" stroke-width="{}"><title>{}: {}</title>'
        "</polyline>"
      ).format(
        points,
        30 + 180 * good,
        0.35 + 0.6 * good,
        3 if index == 0 else 1.5,
        entry.name,
        shown(values[index]),
      )
    )
  label = f"{len(entries)} runs; the best, {entries[0].name}, is drawn thick."
  return Markup(
    '<svg class="coordinates" viewBox="0 0 {} {}" role="img" '
    'aria-label="{}">{}</svg>'
  ).format(_WIDTH, _HEIGHT, label, Markup("").join(parts))


def _y(place: float) -> float:
  return _HEIGHT - _BOTTOM - place * (_HEIGHT - _TOP - _BOTTOM)


def _places(values: Sequence[Any]) -> list[float]:
  """Returns heights from 0 to 1."""
  if all(_is_number(value) for value in values):
    numbers = [float(value) for value in values]
    if min(numbers) > 0 and max(numbers) / min(numbers) >= 20:
      numbers = [math.log(number) for number in numbers]
    low, high = min(numbers), max(numbers)
    if high == low:
      return [0.5] * len(numbers)
    return [(number - low) / (high - low) for number in numbers]
  names = sorted({shown(value) for value in values})
  last = max(len(names) - 1, 1)
  return [names.index(shown(value)) / last for value in values]


def _is_number(value: Any) -> bool:
  return isinstance(value, int | float) and not isinstance(value, bool)


def _axis(
  x: float, key: str, values: Sequence[Any], places: Sequence[float]
) -> Markup:
  ticks: Mapping[float, str] = {
    place: shown(value) for value, place in zip(values, places, strict=True)
  }
  if len(ticks) > 7:
    ordered = sorted(ticks)
    ticks = {p: ticks[p] for p in (ordered[0], ordered[-1])}
  parts = [
    Markup('<text class="tick" x="{:.1f}" y="{:.1f}">{}</text>').format(
      x + 5, _y(place) + 4, text
    )
    for place, text in ticks.items()
  ]
  return Markup(
    '<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{}" y2="{}"/>'
    '<text class="name" x="{x:.1f}" y="18" text-anchor="middle">{}</text>{}'
  ).format(
    _y(0.0), _y(1.0), key.rpartition(".")[2], Markup("").join(parts), x=x
  )
