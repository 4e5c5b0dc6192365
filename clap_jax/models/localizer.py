"""Defines an anchor-free temporal action localizer (like ActionFormer)."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from clap_jax.models.heads import HeadConfig, PointHead
from clap_jax.models.pyramid import Pyramid, PyramidConfig, join_levels
from clap_jax.models.suppression import SuppressionConfig
from clap_jax.ops.points import PointPredictions, point_segments
from clap_jax.types import Detections


@dataclasses.dataclass(frozen=True)
class LocalizerConfig:
  """Hyper-parameters of the localizer.

  Attributes:
    num_classes: number of action classes, without background.
    pyramid: hyper-parameters of the trunk.
    head: hyper-parameters of the heads.
  """

  num_classes: int
  pyramid: PyramidConfig = dataclasses.field(default_factory=PyramidConfig)
  head: HeadConfig = dataclasses.field(default_factory=HeadConfig)


@dataclasses.dataclass(frozen=True)
class DecodeConfig(SuppressionConfig):
  """Options that turn predictions of points into detections.

  Attributes:
    num_kept, num_candidates, sigma, min_score, class_wise, vote_iou: see
      `SuppressionConfig`.
    min_length: minimum length in grid units.
  """

  min_length: float = 0.05


class Localizer(nn.Module):
  """Predicts pyramid points from features (b, t, d) and a mask (b, t)."""

  config: LocalizerConfig

  @nn.compact
  def __call__(
    self,
    features: jax.Array,
    mask: jax.Array,
    *,
    deterministic: bool = True,
  ) -> PointPredictions:
    config = self.config
    levels = Pyramid(config.pyramid, name="pyramid")(
      features, mask, deterministic=deterministic
    )
    return PointHead(
      config.num_classes,
      config.pyramid.num_levels,
      config.pyramid.range_factor,
      config.head,
      name="head",
    )(
      join_levels(levels, gap=config.head.gap),
      num_steps=features.shape[1],
      deterministic=deterministic,
    )


def decode(
  predictions: PointPredictions, *, config: DecodeConfig
) -> Detections:
  """Computes detections of every video or query, best first, entirely in XLA.

  Scores are sigmoid probabilities, decayed by soft-NMS. Segments may exceed the
  video; clip them after the conversion to seconds. The number of entries is
  always `config.num_kept`.
  """
  return decode_segments(
    point_segments(predictions),
    jax.nn.sigmoid(predictions.class_logits),
    predictions.point_mask,
    config=config,
  )


def decode_segments(
  segments: jax.Array,  # (b, p, 2), grid units
  scores: jax.Array,  # (b, p, c) in [0, 1]
  mask: jax.Array,  # bool (b, p)
  *,
  config: DecodeConfig,
) -> Detections:
  """Computes `decode` for scored segments of any head."""
  keep_one = jax.vmap(lambda s, c, m: _decode_one(s, c, m, config=config))
  return keep_one(segments, scores, mask)


def _decode_one(
  segments: jax.Array,  # (p, 2)
  scores: jax.Array,  # (p, c)
  point_mask: jax.Array,  # bool (p,)
  *,
  config: DecodeConfig,
) -> Detections:
  num_points, num_classes = scores.shape
  long_enough = segments[:, 1] - segments[:, 0] >= config.min_length
  scores = jnp.where((point_mask & long_enough)[:, None], scores, -1.0)
  best, index = jax.lax.top_k(
    scores.reshape(-1), min(config.num_candidates, num_points * num_classes)
  )
  candidates = Detections(
    segments=segments[index // num_classes],
    scores=jnp.maximum(best, 0.0),
    labels=(index % num_classes).astype(jnp.int32),
    mask=best >= config.min_score,
  )
  return config.suppress(candidates)
