"""Defines the kinds of grounders behind one interface, with losses."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax

from clap_jax import config as config_lib
from clap_jax.losses import grounding as losses
from clap_jax.losses import moment_detr as detr_losses
from clap_jax.losses.query_targets import QueryTargets, Sums
from clap_jax.models import (
  fusion,
  grounder,
  heads,
  moment_detr,
  pyramid,
  two_d_tan,
)


@dataclasses.dataclass(frozen=True)
class Parts:
  """Model sections of a grounding config; each kind reads some of them."""

  pyramid: pyramid.PyramidConfig
  fusion: fusion.FusionConfig
  head: heads.HeadConfig
  map: two_d_tan.TwoDTanConfig
  detr: moment_detr.MomentDetrConfig


def parts_of(facts: Mapping[str, Any]) -> Parts:
  """Returns the model sections of a head's facts, with defaults."""
  names = [field.name for field in dataclasses.fields(Parts)]
  given = {name: facts[name] for name in names if name in facts}
  return config_lib.resolve(Parts, given)


@dataclasses.dataclass(frozen=True)
class Kind:
  """A kind of grounder: its model, loss, and handling of long videos.

  Attributes:
    make: function Parts -> flax module with `encode_video` and `score`.
    loss: function (output, targets, config, rng) -> sums, see
      losses/query_targets.py.
    takes_any_length: whether one pass takes a video of any length; otherwise it
      is cut into overlapping windows of the trained length.
    highlights: function from saliency logits to reported scores.
    scores_highlights: whether every head of the kind is trained on highlights.
  """

  make: Callable[[Parts], Any]
  loss: Callable[..., Sums]
  takes_any_length: bool
  highlights: Callable[[jax.Array], jax.Array] = jax.nn.sigmoid
  scores_highlights: bool = False


def _make_pyramid(parts: Parts) -> grounder.PyramidGrounder:
  return grounder.PyramidGrounder(parts.pyramid, parts.fusion, parts.head)


def _make_map(parts: Parts) -> two_d_tan.TwoDTanGrounder:
  return two_d_tan.TwoDTanGrounder(parts.pyramid, parts.fusion, parts.map)


def _make_detr(parts: Parts) -> moment_detr.MomentDetr:
  return moment_detr.MomentDetr(parts.detr)


def _pyramid_loss(output, targets, config, rng) -> Sums:
  del rng
  sums = losses.point_grounding_loss(output.predictions, targets, config=config)
  return sums | _shared_losses(output, targets, config)


def _map_loss(output, targets, config, rng) -> Sums:
  del rng
  predictions = output.predictions
  sums = losses.map_grounding_loss(
    predictions.logits,
    predictions.shifts,
    targets,
    candidates=predictions.candidates,
    mask=predictions.mask,
    config=config,
  )
  return sums | _shared_losses(output, targets, config)


def _shared_losses(output, targets: QueryTargets, config) -> Sums:
  """Computes the losses of saliency and absence."""
  return losses.saliency_loss(
    output.saliency_logits, targets, config=config
  ) | losses.absence_loss(
    output.absence_logits,
    targets.is_absent,
    valid=targets.valid,
    config=config,
  )


def _detr_loss(output, targets, config, rng) -> Sums:
  asked = targets.valid
  if not config.absent_moments:
    asked = asked & ~targets.is_absent
  return detr_losses.detr_loss(
    output.predictions, targets, config=config.detr, asked=asked, rng=rng
  )


KINDS: dict[str, Kind] = {
  "pyramid": Kind(_make_pyramid, _pyramid_loss, takes_any_length=True),
  # The candidates grow with the square of the length.
  "map": Kind(_make_map, _map_loss, takes_any_length=False),
  # Moments are shares of the trained length; scores are unbounded.
  "detr": Kind(
    _make_detr,
    _detr_loss,
    takes_any_length=False,
    highlights=lambda scores: scores,
    scores_highlights=True,
  ),
}
