"""Colours: one per encoder everywhere, one hue per class in a report.

Colours are CSS classes and hues rather than values, so that the style sheet
can answer light, dark and print with the right lightness for each.
"""

from collections.abc import Iterable

from clap_jax.report import content

_GOLDEN_ANGLE_DEG = 137.508  # spreads any number of hues around the circle


def encoder_class(name: str, *, index: int = 0) -> str:
  """CSS class for an encoder's name, or for the `index`-th other curve."""
  words = name.replace("_", " ").split()  # clap_no_masks is a kind of clap
  if words and words[0] in content.ENCODERS:
    return f"enc-{words[0]}"
  return f"enc-other-{index % 4}"


def label_hues(labels: Iterable[str]) -> dict[str, int]:
  """A hue in degrees for each label, the same whatever their order."""
  names = sorted(set(labels))
  return {
    name: round(28 + index * _GOLDEN_ANGLE_DEG) % 360
    for index, name in enumerate(names)
  }
