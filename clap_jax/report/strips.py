"""Plots means with their 95 % intervals and single values."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from clap_jax.metrics import intervals
from clap_jax.report import claims, curves, metric_names, palette, result_table

_WIDTH, _ROW_HEIGHT, _LEFT, _RIGHT = 640, 26, 185, 20
_AXIS_HEIGHT = 30
_CLAIM_LEFT = 320  # space for the text of a claim


@dataclasses.dataclass(frozen=True)
class Strip:
  """A row of a plot of intervals."""

  name: str
  interval: intervals.Interval
  dots: Sequence[float] = ()
  row: str = ""  # row that sets the colour; "": the strip's name


def of_claims(verdicts: Sequence[claims.Verdict]) -> Markup:
  """Plots the difference of each claim, with a dot per seed."""
  strips = [
    Strip(str(v.claim), v.interval, v.differences, row=v.claim.than)
    for v in verdicts
  ]
  return strips_svg(strips, label="difference by claim", left=_CLAIM_LEFT)


def of_table(
  table: result_table.ResultTable,
) -> dict[tuple[str, str], dict[str, Any]]:
  """Returns (dataset, task) -> the plots of its headline metric."""
  plots = {}
  for dataset, task in dict.fromkeys(place[:2] for place in table.places):
    metric = table.primary(task, dataset)
    cells = {
      row: table.cell(dataset, task, metric, row=row) for row in table.rows
    }
    cells = {row: cell for row, cell in cells.items() if cell.values}
    if not cells:
      continue
    name = metric_names.describe(metric).text
    values = [
      Strip(row, cell.estimate, tuple(cell.values.values()))
      for row, cell in cells.items()
    ]
    gains = [
      Strip(row, cell.difference)
      for row, cell in cells.items()
      if cell.num_pairs
    ]
    plots[dataset, task] = {
      "metric": name,
      "means": strips_svg(values, label=f"{name} of each row"),
      "gains": strips_svg(
        gains, label=f"{table.reference} minus each other row, {name}"
      ),
    }
  return plots


def strips_svg(
  strips: Sequence[Strip], *, label: str, left: int = _LEFT
) -> Markup:
  """Plots means with their intervals and single values, one per line."""
  strips = [strip for strip in strips if math.isfinite(strip.interval.mean)]
  if not strips:
    return Markup("")
  ends = [0.0]
  for strip in strips:
    values = (*dataclasses.astuple(strip.interval), *strip.dots)
    ends += [value for value in values if math.isfinite(value)]
  low, high = min(ends), max(ends)
  high = high if high > low else low + 1.0
  bottom = _ROW_HEIGHT * len(strips)

  def place(value: float) -> float:
    return left + (value - low) / (high - low) * (_WIDTH - left - _RIGHT)

  parts = [
    Markup(
      '<line class="{}" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{}"/>'
      '<text class="tick" x="{x:.1f}" y="{}" text-anchor="middle">{:g}</text>'
    ).format(
      "axis" if abs(tick) < 1e-12 else "grid",
      bottom,
      bottom + 18,
      round(tick, 6),
      x=place(tick),
    )
    for tick in curves.linear_ticks(low, high, about=5)
  ]
  for index, strip in enumerate(strips):
    parts.append(_strip(strip, index, place, left=left))
  return Markup(
    '<svg class="chart strips" viewBox="0 0 {} {}" role="img" '
    'aria-label="{}">{}</svg>'
  ).format(_WIDTH, bottom + _AXIS_HEIGHT, label, Markup("").join(parts))


def _strip(strip: Strip, index: int, place, *, left: int) -> Markup:
  y = _ROW_HEIGHT * (index + 0.5)
  mean, low, high = dataclasses.astuple(strip.interval)
  css = palette.encoder_class(strip.row or strip.name, index=index)
  words = f"{strip.name}: {metric_names.format_value(mean)}"
  parts = [
    Markup('<text x="{}" y="{:.1f}" text-anchor="end">{}</text>').format(
      left - 12, y + 5, strip.name
    )
  ]
  if math.isfinite(low):
    parts.append(
      Markup(
        '<line class="line" x1="{:.1f}" x2="{:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
      ).format(place(low), place(high), y=y)
    )
    words += (
      f", 95 % interval {metric_names.format_value(low)} to "
      f"{metric_names.format_value(high)}"
    )
  parts += [
    Markup('<circle class="one" cx="{:.1f}" cy="{:.1f}" r="2.5"/>').format(
      place(dot), y
    )
    for dot in strip.dots
  ]
  parts.append(
    Markup('<circle class="mean" cx="{:.1f}" cy="{:.1f}" r="5"/>').format(
      place(mean), y
    )
  )
  return Markup('<g class="{}"><title>{}</title>{}</g>').format(
    css, words, Markup("").join(parts)
  )
