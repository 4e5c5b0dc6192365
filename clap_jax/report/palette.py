"""Assigns colours: one per encoder everywhere, one hue per class in a report.

Colours are CSS classes and hues, so that the style sheet can set the lightness
for light, dark and print.
"""

from collections.abc import Iterable

from clap_jax.report import content

_GOLDEN_ANGLE_DEG = 137.508  # spreads any number of hues around the circle


def encoder_class(name: str, *, index: int = 0) -> str:
  """Returns the CSS class of an encoder, or of the `index`-th other curve."""
  words = name.replace("_", " ").split()  # clap_no_masks is a kind of clap
  if words and words[0] in content.ENCODERS:
    return f"enc-{words[0]}"
  return f"enc-other-{index % 4}"


def label_hues(labels: Iterable[str]) -> dict[str, int]:
  """Assigns a hue in degrees to each label, independent of their order."""
  names = sorted(set(labels))
  return {
    name: round(28 + index * _GOLDEN_ANGLE_DEG) % 360
    for index, name in enumerate(names)
  }
