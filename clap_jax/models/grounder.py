"""Text-conditioned anchor-free pyramid: the moment a sentence means.

The class of SnAG (CVPR 2024): the video is encoded without the text and the
text joins late, so that one encoding of a video serves any number of queries.
"""

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from clap_jax.models.fusion import Fusion, FusionConfig, TextEncoder
from clap_jax.models.heads import HeadConfig, PointHead
from clap_jax.models.layers import Dense
from clap_jax.models.pyramid import (
  Level,
  Pyramid,
  PyramidConfig,
  join_levels,
)
from clap_jax.ops.masking import masked_max, masked_mean
from clap_jax.ops.points import PointPredictions


@dataclasses.dataclass(frozen=True)
class GrounderConfig:
  """Hyper-parameters of the grounder.

  Attributes:
    pyramid: video trunk.
    fusion: text encoder and fusion.
    head: heads.
  """

  pyramid: PyramidConfig = dataclasses.field(default_factory=PyramidConfig)
  fusion: FusionConfig = dataclasses.field(default_factory=FusionConfig)
  head: HeadConfig = dataclasses.field(default_factory=HeadConfig)


class GrounderOutput(NamedTuple):
  """What the grounder says of each query."""

  predictions: PointPredictions  # of q queries, with one class
  absence_logits: jax.Array  # float32 (q,): high where the moment is absent


class Grounder(nn.Module):
  """Features and token vectors to predictions of pyramid points per query.

  Use `apply(params, features, mask, query, query_mask)` for one query per
  video, or `apply(..., method="encode_video")` once and `method="score"` for
  every batch of queries.
  """

  config: GrounderConfig
  dtype: Any = jnp.float32

  def setup(self):
    config = self.config
    self.pyramid = Pyramid(config.pyramid, dtype=self.dtype)
    self.text = TextEncoder(
      config.pyramid.width, config.fusion, dtype=self.dtype
    )
    self.fusion = Fusion(config.fusion, dtype=self.dtype)
    self.head = PointHead(
      1,
      config.pyramid.num_levels,
      config.pyramid.range_factor,
      config.head,
      dtype=self.dtype,
    )
    self.absence_hidden = Dense(config.pyramid.width)
    self.absence_out = Dense(1)

  def __call__(
    self,
    features: jax.Array,  # (b, t, d)
    mask: jax.Array,  # bool (b, t)
    query: jax.Array,  # (b, l, e)
    query_mask: jax.Array,  # bool (b, l)
    *,
    deterministic: bool = True,
  ) -> GrounderOutput:
    """One query per video."""
    encoded = self.encode_video(features, mask, deterministic=deterministic)
    return self.score(
      encoded,
      query,
      query_mask,
      num_steps=features.shape[1],
      deterministic=deterministic,
    )

  def encode_video(
    self,
    features: jax.Array,  # (b, t, d)
    mask: jax.Array,  # bool (b, t)
    *,
    deterministic: bool = True,
  ) -> Level:
    """The part that knows no query: joined levels, to pass to `score`."""
    levels = self.pyramid(features, mask, deterministic=deterministic)
    return join_levels(levels, gap=self.config.head.gap)

  def score(
    self,
    encoded: Level,  # of b videos
    query: jax.Array,  # (q, l, e)
    query_mask: jax.Array,  # bool (q, l)
    *,
    num_steps: int,
    video_of_query: jax.Array | None = None,
    deterministic: bool = True,
  ) -> GrounderOutput:
    """Predictions of q queries on encoded videos.

    Args:
      encoded: result of `encode_video`.
      query: token vectors of a frozen text tower.
      query_mask: True for tokens.
      num_steps: length t of the features that were encoded, with padding.
      video_of_query: int32 (q,), row of `encoded` each query asks of. Without
        it, query i asks of video i, or all ask of the only one.
      deterministic: whether dropout is off.

    Raises:
      ValueError: if the numbers of videos and queries differ and nothing says
        which query belongs to which video.
    """
    num_videos, num_queries = encoded.mask.shape[0], query.shape[0]
    if video_of_query is not None:
      encoded = Level(*(x[video_of_query] for x in encoded))
    elif num_videos == 1:
      encoded = Level(
        *(jnp.broadcast_to(x, (num_queries, *x.shape[1:])) for x in encoded)
      )
    elif num_videos != num_queries:
      raise ValueError(
        f"{num_queries} queries on {num_videos} videos need video_of_query, "
        "the row of the video for each query."
      )
    text = self.text(query, query_mask, deterministic=deterministic)
    fused = self.fusion(
      encoded.features, encoded.mask, text, deterministic=deterministic
    )
    joined = Level(fused, encoded.mask)
    predictions = self.head(
      joined, num_steps=num_steps, deterministic=deterministic
    )
    return GrounderOutput(predictions, self._absence(joined))

  def _absence(self, joined: Level) -> jax.Array:
    """One logit per query from the mean and the maximum over all points."""
    x, mask = joined.features.astype(jnp.float32), joined.mask[..., None]
    pooled = jnp.concatenate(
      [
        masked_mean(x, mask, axis=-2),
        masked_max(x, mask, axis=-2, empty=0.0),
      ],
      axis=-1,
    )
    return self.absence_out(nn.relu(self.absence_hidden(pooled)))[..., 0]
