"""Writes report.html of a study."""

import dataclasses
import math
import pathlib
from collections.abc import Mapping, Sequence

from markupsafe import Markup

from clap_jax.report import (
  content,
  curves,
  files,
  metric_names,
  page,
  palette,
  study_claims,
  study_table,
)

_WIDTH, _ROW_HEIGHT, _LEFT, _RIGHT = 640, 26, 185, 20
_AXIS_HEIGHT = 30
_CLAIM_LEFT = 320  # room for the words of a claim


@dataclasses.dataclass(frozen=True)
class Facts:
  """Facts of the page besides the numbers."""

  title: str
  notes: Sequence[str]
  num_pieces: int
  num_made: int
  failed: Sequence[tuple[str, str]]  # piece, reason
  wall_sec: Mapping[str, tuple[int, float]]  # kind -> (pieces, seconds)


@dataclasses.dataclass(frozen=True)
class Strip:
  """A row of a plot of intervals."""

  name: str
  mean: float
  low: float  # NaN: no interval
  high: float
  dots: Sequence[float] = ()
  row: str = ""  # whose colour it has; "": that of its name


def write(
  path: pathlib.Path,
  table: study_table.StudyTable,
  facts: Facts,
  *,
  verdicts: Sequence[study_claims.Verdict] = (),
  charts: Sequence[content.Chart] = (),
) -> None:
  """Writes the page whole or not at all; it needs nothing but itself."""
  text = render(table, facts, verdicts=verdicts, charts=charts)
  files.write_text(path, text)


def render(
  table: study_table.StudyTable,
  facts: Facts,
  *,
  verdicts: Sequence[study_claims.Verdict] = (),
  charts: Sequence[content.Chart] = (),
) -> str:
  """The page as text."""
  charts = [*charts, *_threshold_charts(table)]
  return (
    page.environment()
    .get_template("study_page.html")
    .render(
      facts=facts,
      table=table,
      style=Markup(page.style()),
      describe=metric_names.describe,
      titles=metric_names.TASK_TITLES,
      questions=metric_names.TASK_QUESTIONS,
      shown=_shown,
      claims=_claims(verdicts),
      plots=_plots(table),
      charts=[(chart, curves.chart_svg(chart)) for chart in charts],
    )
  )


def _shown(interval) -> str:
  if not math.isfinite(interval.mean):
    return "–"
  text = metric_names.format_value(interval.mean)
  if math.isfinite(interval.low):
    text += f" ± {metric_names.format_value(interval.high - interval.mean)}"
  return text


def _claims(verdicts: Sequence[study_claims.Verdict]) -> dict[str, dict]:
  """Dataset -> its verdicts, and their plot: a dot per seed."""
  claims = {}
  for dataset in dict.fromkeys(verdict.dataset for verdict in verdicts):
    own = [verdict for verdict in verdicts if verdict.dataset == dataset]
    strips = [
      Strip(
        str(v.claim),
        v.interval.mean,
        v.interval.low,
        v.interval.high,
        v.differences,
        row=v.claim.than,
      )
      for v in own
    ]
    svg = strips_svg(strips, label="difference by claim", left=_CLAIM_LEFT)
    claims[dataset] = {"verdicts": own, "plot": svg}
  return claims


def _plots(table: study_table.StudyTable) -> dict[tuple[str, str], dict]:
  """(dataset, task) -> the plots of its headline metric."""
  plots = {}
  for dataset in table.datasets:
    for task in table.tasks:
      metric = table.primary(task)
      cells = {
        row: table.cell(dataset, task, metric, row=row) for row in table.rows
      }
      cells = {row: cell for row, cell in cells.items() if cell.values}
      if not cells:
        continue
      name = metric_names.describe(metric).text
      values = [
        Strip(row, c.estimate.mean, c.estimate.low, c.estimate.high,
              tuple(c.values.values()))
        for row, c in cells.items()
      ]  # fmt: skip
      gains = [
        Strip(row, c.difference.mean, c.difference.low, c.difference.high)
        for row, c in cells.items()
        if c.num_pairs
      ]
      plots[dataset, task] = {
        "metric": name,
        "values": strips_svg(values, label=f"{name} of each row"),
        "gains": strips_svg(
          gains, label=f"{table.reference} minus each other row, {name}"
        ),
      }
  return plots


def _threshold_charts(table: study_table.StudyTable) -> list[content.Chart]:
  """mAP over the tIoU thresholds, one curve per row."""
  charts = []
  for dataset in table.datasets:
    lines = []
    for row in table.rows:
      points = []
      for place_dataset, task, metric in table.places:
        if (place_dataset, task) == (dataset, "localization") and (
          metric.startswith("map@")
        ):
          cell = table.cell(dataset, task, metric, row=row)
          points.append((float(metric.partition("@")[2]), cell.estimate.mean))
      if any(math.isfinite(value) for _, value in points):
        xs, ys = zip(*sorted(points), strict=True)
        lines.append(content.Curve(row, xs, ys))
    if lines:
      charts.append(
        content.Chart(
          title=f"Localization by threshold, {dataset}",
          curves=lines,
          y_label="mAP, mean over seeds",
          x_label="tIoU",
          smooth=False,
        )
      )
  return charts


def strips_svg(
  strips: Sequence[Strip], *, label: str, left: int = _LEFT
) -> Markup:
  """Means with their intervals and the single values, one row each."""
  strips = [strip for strip in strips if math.isfinite(strip.mean)]
  if not strips:
    return Markup("")
  ends = [0.0]
  for strip in strips:
    values = (strip.mean, strip.low, strip.high, *strip.dots)
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
  css = palette.encoder_class(strip.row or strip.name, index=index)
  words = f"{strip.name}: {metric_names.format_value(strip.mean)}"
  parts = [
    Markup('<text x="{}" y="{:.1f}" text-anchor="end">{}</text>').format(
      left - 12, y + 5, strip.name
    )
  ]
  if math.isfinite(strip.low):
    parts.append(
      Markup(
        '<line class="line" x1="{:.1f}" x2="{:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
      ).format(place(strip.low), place(strip.high), y=y)
    )
    words += (
      f", 95 % interval {metric_names.format_value(strip.low)} to "
      f"{metric_names.format_value(strip.high)}"
    )
  parts += [
    Markup('<circle class="one" cx="{:.1f}" cy="{:.1f}" r="2.5"/>').format(
      place(dot), y
    )
    for dot in strip.dots
  ]
  parts.append(
    Markup('<circle class="mean" cx="{:.1f}" cy="{:.1f}" r="5"/>').format(
      place(strip.mean), y
    )
  )
  return Markup('<g class="{}"><title>{}</title>{}</g>').format(
    css, words, Markup("").join(parts)
  )
