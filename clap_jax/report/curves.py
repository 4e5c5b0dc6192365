"""Draws curves of losses and metrics as SVG."""

import math
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from clap_jax.report import content, palette

_WIDTH, _HEIGHT = 420, 262
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 12, 12, 40
_MAX_POINTS = 300
_MAX_MARKED = 12  # curves of at most this many points get dots
_DASHES = ("", "7 3", "2 3", "9 3 2 3", "1 6")


def chart_svg(chart: content.Chart) -> Markup:
  """Draws the chart as an SVG element; "" if it has no finite value."""
  lines = [_arrays(curve) for curve in chart.curves]
  if not any(np.isfinite(values).any() for _, values in lines):
    return Markup("")
  steps = np.concatenate([s for s, _ in lines])
  values = np.concatenate([v for _, v in lines])
  values = values[np.isfinite(values)]
  x_range = _padded(float(steps.min()), float(steps.max()), pad=0.0)
  y_range = _y_range(values)
  parts = [_axes(chart, x_range=x_range, y_range=y_range)]
  for index, (curve, (xs, ys)) in enumerate(
    zip(chart.curves, lines, strict=True)
  ):
    name = palette.encoder_class(curve.name, index=index)
    points = _scale(xs, ys, x_range=x_range, y_range=y_range)
    smooth = chart.smooth and len(xs) >= 30
    if smooth:
      parts.append(_path(points, css=f"raw {name}"))
      mean = _moving_average(ys, width=max(1.5, len(ys) / 70))
      points = _scale(xs, mean, x_range=x_range, y_range=y_range)
    parts.append(
      _path(points, css=f"line {name}", dash=dash_of(chart.curves, index))
    )
    if len(xs) <= _MAX_MARKED:
      parts.append(_dots(points, css=f"dots {name}"))
  summary = "; ".join(
    f"{curve.name} ends at {_short(_last(ys))}"
    for curve, (_, ys) in zip(chart.curves, lines, strict=True)
  )
  label = f"{chart.title}: {chart.y_label} over {chart.x_label}. {summary}."
  return Markup(
    '<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>'
  ).format(_WIDTH, _HEIGHT, label, Markup("").join(parts))


def dash_of(curves: Sequence[content.Curve], index: int) -> str:
  """Returns the dash pattern that separates curves of one colour."""
  names = [palette.encoder_class(c.name, index=i) for i, c in enumerate(curves)]
  earlier = names[:index].count(names[index])
  return _DASHES[earlier % len(_DASHES)]


def _arrays(curve: content.Curve) -> tuple[np.ndarray, np.ndarray]:
  """Returns steps and values, with NaN for values that are not finite."""
  values = np.asarray(curve.values, np.float64)
  return (
    np.asarray(curve.steps, np.float64),
    np.where(np.isfinite(values), values, np.nan),
  )


def _last(values: np.ndarray) -> float:
  finite = values[np.isfinite(values)]
  return float(finite[-1]) if len(finite) else math.nan


def _padded(low: float, high: float, *, pad: float) -> tuple[float, float]:
  if high == low:
    return low - 0.5, high + 0.5
  return low - pad * (high - low), high + pad * (high - low)


def _y_range(values: np.ndarray) -> tuple[float, float]:
  low, high = float(values.min()), float(values.max())
  padded = _padded(low, high, pad=0.05)
  return (0.0, padded[1]) if 0 <= low < 0.35 * high else padded


def _scale(
  xs: np.ndarray,
  ys: np.ndarray,
  *,
  x_range: tuple[float, float],
  y_range: tuple[float, float],
) -> np.ndarray:
  """Returns pixel positions (n, 2); NaN stays NaN."""
  x_fraction = (xs - x_range[0]) / (x_range[1] - x_range[0])
  y_fraction = (ys - y_range[0]) / (y_range[1] - y_range[0])
  return np.stack(
    [
      _LEFT + x_fraction * (_WIDTH - _LEFT - _RIGHT),
      _HEIGHT - _BOTTOM - y_fraction * (_HEIGHT - _TOP - _BOTTOM),
    ],
    axis=-1,
  )


def _moving_average(values: np.ndarray, *, width: float) -> np.ndarray:
  """Smooths with a centred Gaussian of `width` entries; NaN stays NaN.

  Near the ends, the weights of the existing entries are normalised.
  """
  reach = math.ceil(3 * width)
  kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
  finite = np.isfinite(values)
  padded = np.pad(np.where(finite, values, 0.0), reach)
  weights = np.pad(finite.astype(np.float64), reach)
  total = np.convolve(padded, kernel, mode="valid")
  weight = np.convolve(weights, kernel, mode="valid")
  return np.where(finite, total / np.where(finite, weight, 1.0), np.nan)


def _path(points: np.ndarray, *, css: str, dash: str = "") -> Markup:
  stride = math.ceil(len(points) / _MAX_POINTS)
  kept = sorted({*range(0, len(points), stride), len(points) - 1})
  commands, pen_up = [], True
  for x, y in points[kept]:
    if math.isfinite(y):
      commands.append(f"{'M' if pen_up else 'L'}{x:.1f} {y:.1f}")
    pen_up = not math.isfinite(y)
  if len(commands) == 1:  # a single point: a round cap makes it visible
    commands.append("h0.1")
  return Markup('<path class="{}" d="{}"{}/>').format(
    css,
    "".join(commands),
    Markup(' stroke-dasharray="{}"').format(dash) if dash else "",
  )


def _dots(points: np.ndarray, *, css: str) -> Markup:
  """Draws a dot, the round cap of a zero-length line, at each point."""
  commands = [f"M{x:.1f} {y:.1f}h0.1" for x, y in points if math.isfinite(y)]
  return Markup('<path class="{}" d="{}"/>').format(css, "".join(commands))


def linear_ticks(low: float, high: float, *, about: int) -> list[float]:
  """Returns about `about` round values from `low` to `high`."""
  rough = (high - low) / max(about, 1)
  magnitude = 10 ** math.floor(math.log10(rough))
  step = next(m for m in (1, 2, 5, 10) if m * magnitude >= rough * 0.999)
  step *= magnitude
  first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
  return [index * step for index in range(first, last + 1)]


def _short(value: float) -> str:
  if not math.isfinite(value):
    return "n/a"
  if abs(value) >= 10_000:
    return f"{value / 1000:g}k"
  return f"{value:.4g}"


def _axes(
  chart: content.Chart,
  *,
  x_range: tuple[float, float],
  y_range: tuple[float, float],
) -> Markup:
  right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
  parts = []
  for tick in linear_ticks(*y_range, about=5):
    y = _scale(
      np.array([x_range[0]]),
      np.array([tick]),
      x_range=x_range,
      y_range=y_range,
    )[0, 1]
    parts.append(
      Markup(
        '<line class="grid" x1="{}" x2="{}" y1="{y:.1f}" y2="{y:.1f}"/>'
        '<text class="tick" x="{}" y="{:.1f}" text-anchor="end">{}</text>'
      ).format(_LEFT, right, _LEFT - 7, y + 4, _short(tick), y=y)
    )
  for tick in linear_ticks(*x_range, about=5):
    x = _LEFT + (tick - x_range[0]) / (x_range[1] - x_range[0]) * (
      right - _LEFT
    )
    anchor = "end" if x > right - 8 else "middle"
    parts.append(
      Markup(
        '<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{}" y2="{}"/>'
        '<text class="tick" x="{x:.1f}" y="{}" text-anchor="{}">{}</text>'
      ).format(bottom, bottom + 4, bottom + 18, anchor, _short(tick), x=x)
    )
  parts.append(
    Markup(
      '<line class="axis" x1="{}" x2="{}" y1="{y}" y2="{y}"/>'
      '<text class="name" x="{}" y="{}" text-anchor="end">{}</text>'
    ).format(_LEFT, right, right, _HEIGHT - 5, chart.x_label, y=bottom)
  )
  return Markup("").join(parts)
