"""The kinds of grounders behind one interface, each with its own loss."""

import dataclasses
from collections.abc import Callable
from typing import Any

from clap_jax.losses import grounding as losses
from clap_jax.models import fusion, grounder, heads, moment_map, pyramid


@dataclasses.dataclass(frozen=True)
class Parts:
  """The model sections of a grounding config; a kind reads what it needs."""

  pyramid: pyramid.PyramidConfig
  fusion: fusion.FusionConfig
  head: heads.HeadConfig
  map: moment_map.MapConfig


@dataclasses.dataclass(frozen=True)
class Kind:
  """How a kind of grounder is made, trained, and applied to long videos.

  Attributes:
    make: Parts -> the flax module, with `encode_video` and `score`.
    moment_loss: (predictions, targets, config) -> sums, see losses.grounding.
    takes_any_length: whether one pass takes a video of any length; else it is
      cut into overlapping windows of the trained length.
  """

  make: Callable[[Parts], Any]
  moment_loss: Callable[..., losses.Sums]
  takes_any_length: bool


def _make_pyramid(parts: Parts) -> grounder.PyramidGrounder:
  return grounder.PyramidGrounder(parts.pyramid, parts.fusion, parts.head)


def _make_map(parts: Parts) -> moment_map.MapGrounder:
  return moment_map.MapGrounder(parts.pyramid, parts.fusion, parts.map)


def _pyramid_loss(predictions, targets, config) -> losses.Sums:
  return losses.point_grounding_loss(predictions, targets, config=config)


def _map_loss(predictions, targets, config) -> losses.Sums:
  return losses.map_grounding_loss(
    predictions.logits,
    predictions.shifts,
    targets,
    candidates=predictions.candidates,
    mask=predictions.mask,
    config=config,
  )


KINDS: dict[str, Kind] = {
  "pyramid": Kind(_make_pyramid, _pyramid_loss, takes_any_length=True),
  # The candidates grow with the square of the length.
  "map": Kind(_make_map, _map_loss, takes_any_length=False),
}
