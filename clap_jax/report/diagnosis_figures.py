"""Draws the error diagnosis of a detector as SVG bars.

After the plots of Alwassel et al., "Diagnosing Error in Temporal Action
Detectors" (ECCV 2018).
"""

import math
from collections.abc import Sequence

from markupsafe import Markup

from clap_jax.metrics.diagnosis import ERROR_KINDS, Diagnosis
from clap_jax.report import content, curves

_WIDTH, _HEIGHT = 420, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 40, 8, 10, 34
CHARACTERISTICS = {
  "length": "Length of the action",
  "coverage": "Share of the video that it covers",
  "num_instances": "Actions of its class in the video",
}


def error_class(kind: str) -> str:
  """Returns the CSS class of an error kind, the same in every figure."""
  return f"err-{ERROR_KINDS.index(kind)}"


def profile_svg(diagnosis: Diagnosis) -> Markup:
  """Draws shares of error kinds in the best G, 2G, ... predictions."""
  parts = [_y_axis(1.0)]
  slot = (_WIDTH - _LEFT - _RIGHT) / max(len(diagnosis.profile), 1)
  for number, shares in enumerate(diagnosis.profile):
    bottom = 0.0
    left = _LEFT + number * slot
    for kind in ERROR_KINDS:
      parts.append(
        _bar(
          left + 0.1 * slot,
          width=0.8 * slot,
          low=bottom,
          high=bottom + shares[kind],
          top=1.0,
          css=error_class(kind),
          title=f"{number + 1}G: {kind} {shares[kind]:.1%}",
        )
      )
      bottom += shares[kind]
    parts.append(_x_label(left + slot / 2, f"{number + 1}G"))
  first = diagnosis.profile[0] if diagnosis.profile else {}
  summary = ", ".join(f"{kind} {share:.0%}" for kind, share in first.items())
  return _svg(parts, label=f"Of the best G predictions: {summary}.")


def gain_svg(diagnosis: Diagnosis) -> Markup:
  """Draws the gain of average mAP without each error kind."""
  gains = diagnosis.map_gain
  top = _round_up(max([*gains.values(), 0.0]))
  parts = [_y_axis(top)]
  slot = (_WIDTH - _LEFT - _RIGHT) / max(len(gains), 1)
  for number, (kind, gain) in enumerate(gains.items()):
    left = _LEFT + number * slot
    parts += [
      _bar(
        left + 0.2 * slot,
        width=0.6 * slot,
        low=0.0,
        high=max(gain, 0.0),
        top=top,
        css=error_class(kind),
        title=f"without {kind}: +{gain:.4f}",
      ),
      _x_label(left + slot / 2, f"+{gain:.3f}"),
    ]
  summary = ", ".join(f"{kind} +{gain:.3f}" for kind, gain in gains.items())
  return _svg(parts, label=f"Average mAP without an error kind: {summary}.")


def sensitivity_svg(bins: dict[str, dict[str, float]]) -> Markup:
  """Draws recall and average mAP of the actions in each bin."""
  parts = [_y_axis(1.0)]
  slot = (_WIDTH - _LEFT - _RIGHT) / max(len(bins), 1)
  for number, (name, values) in enumerate(bins.items()):
    left = _LEFT + number * slot
    for place, key in enumerate(("recall", "average_map")):
      parts.append(
        _bar(
          left + (0.16 + 0.35 * place) * slot,
          width=0.33 * slot,
          low=0.0,
          high=values[key],
          top=1.0,
          css=f"sens-{place}",
          title=f"{name}, {values['share']:.1%} of the actions: "
          f"{key.replace('_', ' ')} {values[key]:.3f}",
        )
      )
    parts.append(_x_label(left + slot / 2, f"{name} {values['share']:.0%}"))
  summary = "; ".join(
    f"{name}: recall {v['recall']:.2f}, mAP {v['average_map']:.2f}"
    for name, v in bins.items()
  )
  return _svg(parts, label=summary)


def figures(
  item: content.Diagnosed,
) -> list[tuple[str, str, Markup]]:
  """Returns (title, note, SVG) of each figure of a diagnosis."""
  found = item.diagnosis
  shown = [
    (
      "Errors of the best predictions",
      "G is the number of actions of the class; 2G are the next G predictions.",
      profile_svg(found),
    ),
    (
      "Cost of each error",
      f"Gain of average mAP, {found.average_map:.3f}, without the error. "
      f"{found.missed:.1%} of the actions are missed.",
      gain_svg(found),
    ),
  ]
  for name, bins in found.sensitivity.items():
    shown.append(
      (
        CHARACTERISTICS[name],
        item.bin_notes.get(name, "") + " Percentages: share of the actions.",
        sensitivity_svg(bins),
      )
    )
  return shown


def bin_note(
  bounds: Sequence[float], *, names: Sequence[str], unit: str
) -> str:
  """Describes the bounds of a characteristic's bins."""
  texts = [f"{bound:g}" for bound in bounds]
  parts = [f"{names[0]}: up to {texts[0]}{unit}"]
  parts += [
    f"{name}: to {text}{unit}"
    for name, text in zip(names[1:], texts[1:], strict=False)
  ]
  return ", ".join([*parts, f"{names[len(texts)]}: more"]) + "."


def _svg(parts: list[Markup], *, label: str) -> Markup:
  return Markup(
    '<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>'
  ).format(_WIDTH, _HEIGHT, label, Markup("").join(parts))


def _bar(
  left: float,
  *,
  width: float,
  low: float,
  high: float,
  top: float,
  css: str,
  title: str,
) -> Markup:
  scale = (_HEIGHT - _TOP - _BOTTOM) / top
  y = _HEIGHT - _BOTTOM - high * scale
  return Markup(
    '<rect class="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}">'
    "<title>{}</title></rect>"
  ).format(css, left, y, width, max((high - low) * scale, 0.0), title)


def _x_label(x: float, text: str) -> Markup:
  return Markup(
    '<text class="tick" x="{:.1f}" y="{}" text-anchor="middle">{}</text>'
  ).format(x, _HEIGHT - _BOTTOM + 18, text)


def _y_axis(top: float) -> Markup:
  parts = []
  for tick in curves.linear_ticks(0.0, top, about=4):
    y = _HEIGHT - _BOTTOM - tick / top * (_HEIGHT - _TOP - _BOTTOM)
    parts.append(
      Markup(
        '<line class="grid" x1="{}" x2="{}" y1="{y:.1f}" y2="{y:.1f}"/>'
        '<text class="tick" x="{}" y="{:.1f}" text-anchor="end">{:g}</text>'
      ).format(_LEFT, _WIDTH - _RIGHT, _LEFT - 6, y + 4, tick, y=y)
    )
  return Markup("").join(parts)


def _round_up(value: float) -> float:
  if value <= 0:
    return 0.01
  step = 10.0 ** math.floor(math.log10(value))
  return math.ceil(value / step) * step
