"""Defines grounders, which score moments of an encoded video for sentences.

All kinds have one interface: `encode_video` needs no query, and `score` takes
its result and any number of queries. `PyramidGrounder` predicts the distances
to both ends from every point of a pyramid (as SnAG, CVPR 2024);
`two_d_tan.TwoDTanGrounder` scores a sparse set of candidate moments.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax

from clap_jax.models.fusion import AbsenceHead, FusionConfig, LateFusion
from clap_jax.models.heads import HeadConfig, PointHead
from clap_jax.models.layers import Dense
from clap_jax.models.pyramid import (
  Level,
  Pyramid,
  PyramidConfig,
  join_levels,
)
from clap_jax.ops.points import PointPredictions, point_segments


class Moments(NamedTuple):
  """Scored moments of q queries before suppression."""

  segments: jax.Array  # float32 (q, p, 2), grid units
  logits: jax.Array  # float32 (q, p)
  mask: jax.Array  # bool (q, p)


class GrounderOutput(NamedTuple):
  """Predictions of a grounder for each query."""

  moments: Moments
  absence_logits: jax.Array  # float32 (q,): high where the moment is absent
  saliency_logits: jax.Array  # float32 (q, t): of every snippet
  # Inputs of the kind's own loss: PointPredictions or TwoDTanPredictions.
  predictions: Any


class TwoStepGrounder(nn.Module):
  """Grounder that encodes a video once and then scores queries on it.

  Use `apply(params, features, mask, query, query_mask)` for one query per
  video, or `apply(..., method="encode_video")` once and `method="score"` for
  every batch of queries. Subclasses define both methods.
  """

  def __call__(
    self,
    features: jax.Array,  # (b, t, d)
    mask: jax.Array,  # bool (b, t)
    query: jax.Array,  # (b, l, e)
    query_mask: jax.Array,  # bool (b, l)
    *,
    deterministic: bool = True,
  ) -> GrounderOutput:
    """Scores one query per video."""
    encoded = self.encode_video(features, mask, deterministic=deterministic)
    return self.score(encoded, query, query_mask, deterministic=deterministic)


class Grounder(TwoStepGrounder):
  """Shared parts of late-fusion grounders: text, absence, saliency.

  A subclass adds its parts in `setup`, after this one's.

  Attributes:
    video: trunk; its width is that of all parts.
    text: text encoder and fusion.
  """

  video: PyramidConfig
  text: FusionConfig

  def setup(self):
    width = self.video.width
    self.late_fusion = LateFusion(width, self.text)
    self.absence = AbsenceHead(width)
    self.saliency = Dense(1)

  def _output(
    self,
    moments: Moments,
    predictions: Any,
    *,
    fused: Level,  # input of absence
    num_steps: int,  # steps of the finest level, which come first
  ) -> GrounderOutput:
    """Combines moments of q queries with absence and saliency of each step."""
    absence = self.absence(fused, moments.logits, moment_mask=moments.mask)
    finest = fused.features[:, :num_steps]
    saliency = self.saliency(finest)[..., 0]
    return GrounderOutput(moments, absence, saliency, predictions)


class PyramidGrounder(Grounder):
  """Predicts pyramid points per query from features and token vectors."""

  points: HeadConfig

  def setup(self):
    super().setup()
    video = self.video
    self.pyramid = Pyramid(video)
    self.head = PointHead(1, video.num_levels, video.range_factor, self.points)

  def encode_video(
    self,
    features: jax.Array,  # (b, t, d)
    mask: jax.Array,  # bool (b, t)
    *,
    deterministic: bool = True,
  ) -> tuple[Level, ...]:
    """Encodes the video without a query; returns the levels for `score`."""
    return self.pyramid(features, mask, deterministic=deterministic)

  def score(
    self,
    encoded: tuple[Level, ...],  # of b videos
    query: jax.Array,  # (q, l, e)
    query_mask: jax.Array,  # bool (q, l)
    *,
    video_of_query: jax.Array | None = None,
    deterministic: bool = True,
  ) -> GrounderOutput:
    """Computes predictions of q queries on encoded videos.

    Args:
      encoded: result of `encode_video`.
      query: token vectors of a frozen text tower.
      query_mask: True for tokens.
      video_of_query: int (q,), the row of each query's video; required unless
        there is one video or as many as queries.
      deterministic: whether dropout is off; False in training.
    """
    num_steps = encoded[0].mask.shape[1]
    joined = self.late_fusion(
      join_levels(encoded, gap=self.points.gap),
      query,
      query_mask,
      video_of_query=video_of_query,
      deterministic=deterministic,
    )
    predictions = self.head(
      joined, num_steps=num_steps, deterministic=deterministic
    )
    moments = point_moments(predictions)
    return self._output(moments, predictions, fused=joined, num_steps=num_steps)


def point_moments(predictions: PointPredictions) -> Moments:
  """Returns one moment per pyramid point."""
  return Moments(
    point_segments(predictions),
    predictions.class_logits[..., 0],
    predictions.point_mask,
  )
