"""Defines Moment-DETR as published: moments and highlights of a query.

A transformer reads the features of a video and the tokens of a sentence as one
sequence; learned codes attend over it and become moments, while every feature
gets a highlight score.

Source: Lei et al., "QVHighlights: Detecting Moments and Highlights in Videos
via Natural Language Queries", NeurIPS 2021, and the parameters of its public
checkpoints.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from clap_jax.models.detr_layers import (
  DecoderLayer,
  EncoderLayer,
  Linear,
  MomentDetrConfig,
  Projection,
  TextPositions,
  norm,
)
from clap_jax.models.fusion import rows_of_queries
from clap_jax.models.grounder import (
  GrounderOutput,
  Moments,
  TwoStepGrounder,
)
from clap_jax.models.pyramid import Level
from clap_jax.ops import spans as span_ops

_UNIT_EPSILON = 1e-5  # added to the norm by which a feature is divided
_SUM_EPSILON = 1e-6


class MomentDetr(TwoStepGrounder):
  """Predicts moments from features and token vectors; see grounder.py."""

  config: MomentDetrConfig

  def setup(self):
    config = self.config
    last = config.num_projections - 1

    def projections():
      return [
        Projection(config, is_last=i == last)
        for i in range(config.num_projections)
      ]

    self.video_projection, self.text_projection = projections(), projections()
    if config.text_positions:
      self.text_position = TextPositions(config)
    self.encoder = [
      EncoderLayer(config) for _ in range(config.num_encoder_layers)
    ]
    if config.norm_first:
      self.encoder_norm = norm()
    self.codes = self.param(
      "codes", nn.initializers.normal(1.0), (config.num_moments, config.width)
    )
    self.decoder = [
      DecoderLayer(config) for _ in range(config.num_decoder_layers)
    ]
    self.decoder_norm = norm()
    self.span = [
      Linear(features) for features in (config.width, config.width, 2)
    ]
    self.label, self.saliency = Linear(2), Linear(1)

  def encode_video(
    self,
    features: jax.Array,  # (b, t, d)
    mask: jax.Array,  # bool (b, t)
    *,
    deterministic: bool = True,
  ) -> Level:
    """Projects the features, without a query; returns the input of `score`."""
    x = video_inputs(features, mask, config=self.config)
    for project in self.video_projection:
      x = project(x, deterministic=deterministic)
    return Level(x, mask)

  def score(
    self,
    encoded: Level,  # of b videos
    query: jax.Array,  # (q, l, e)
    query_mask: jax.Array,  # bool (q, l)
    *,
    video_of_query: jax.Array | None = None,
    deterministic: bool = True,
  ) -> GrounderOutput:
    """Predicts for q queries; see `grounder.PyramidGrounder.score`."""
    video, video_mask = rows_of_queries(
      encoded, query, video_of_query=video_of_query
    )
    num_steps = video.shape[1]
    limit = self.config.max_text_length
    query, query_mask = query[:, :limit], query_mask[:, :limit]
    text = unit(query) if self.config.normalize_text else query
    for project in self.text_projection:
      text = project(text, deterministic=deterministic)
    text_positions = jnp.zeros_like(text)
    if self.config.text_positions:
      text_positions = self.text_position(text, deterministic=deterministic)
    x = jnp.concatenate([video, text], axis=1)
    mask = jnp.concatenate([video_mask, query_mask], axis=1)
    codes = video_positions(video_mask, self.config.width)
    positions = jnp.concatenate([codes, text_positions], axis=1)
    for layer in self.encoder:
      x = layer(x, positions, mask, deterministic=deterministic)
    if self.config.norm_first:
      x = self.encoder_norm(x)
    outputs = self._decoded(x, positions, mask, deterministic=deterministic)
    predictions = span_ops.SpanPredictions(
      logits=self.label(outputs),
      spans=self._spans(outputs),
      saliency=self.saliency(x[:, :num_steps])[..., 0],
      num_steps=jnp.sum(video_mask, axis=1).astype(jnp.float32),
    )
    moments = detr_moments(predictions)
    absence = -jnp.max(moments.logits, axis=-1)  # there is no absence output
    return GrounderOutput(moments, absence, predictions.saliency, predictions)

  def _decoded(self, memory, positions, mask, *, deterministic) -> jax.Array:
    """Returns the codes after every layer: float32 (layers, q, m, d)."""
    shape = (len(memory), *self.codes.shape)
    codes = jnp.broadcast_to(self.codes, shape)
    x, outputs = jnp.zeros_like(codes), []
    for layer in self.decoder:
      x = layer(x, codes, memory, positions, mask, deterministic=deterministic)
      outputs.append(self.decoder_norm(x))
    return jnp.stack(outputs)

  def _spans(self, x: jax.Array) -> jax.Array:
    for layer in self.span[:-1]:
      x = nn.relu(layer(x))
    return nn.sigmoid(self.span[-1](x))


def unit(x: jax.Array) -> jax.Array:
  """Divides vectors by their norms, as in the public code."""
  square = jnp.sum(x**2, axis=-1, keepdims=True)
  # The root has no gradient at 0.
  length = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
  return x / (length + _UNIT_EPSILON)


def input_width(feature_width: int, config: MomentDetrConfig) -> int:
  """Returns the input width of the first projection."""
  return feature_width + 2 * config.time_channels


def video_inputs(
  features: jax.Array,  # (b, t, d)
  mask: jax.Array,  # bool (b, t)
  *,
  config: MomentDetrConfig,
) -> jax.Array:  # (b, t, d or d + 2)
  """Normalises the feature streams and appends their times.

  Raises:
    ValueError: the features' width is not the sum of the streams' widths.
  """
  if config.stream_widths:
    if sum(config.stream_widths) != features.shape[-1]:
      raise ValueError(
        f"features have width {features.shape[-1]}, the streams "
        f"{config.stream_widths} together {sum(config.stream_widths)}."
      )
    parts, start = [], 0
    for width in config.stream_widths:
      parts.append(unit(features[..., start : start + width]))
      start += width
    features = jnp.concatenate(parts, axis=-1)
  if not config.time_channels:
    return features
  num_steps = jnp.maximum(jnp.sum(mask, axis=1, keepdims=True), 1)
  start = jnp.arange(features.shape[1]) / num_steps  # (b, t)
  times = jnp.stack([start, start + 1 / num_steps], axis=-1)
  times = jnp.where(mask[..., None], times, 0.0)
  return jnp.concatenate([features, times], axis=-1)


def video_positions(mask: jax.Array, width: int) -> jax.Array:
  """Returns sine codes (b, t, width) of each step's position in the video."""
  passed = jnp.cumsum(mask.astype(jnp.float32), axis=1)
  passed = passed / (passed[:, -1:] + _SUM_EPSILON) * (2 * math.pi)
  frequency = 10_000.0 ** (-jnp.arange(0, width, 2) / width)
  angle = passed[..., None] * frequency
  codes = jnp.stack([jnp.sin(angle), jnp.cos(angle)], axis=-1)
  return codes.reshape(*mask.shape, width)


def detr_moments(predictions: span_ops.SpanPredictions) -> Moments:
  """Returns the moments of the last layer, one per code, in grid units."""
  segments = span_ops.to_grid(predictions.spans[-1], predictions.num_steps)
  logits = predictions.logits[-1]
  # The sigmoid of the difference is the softmax of two outputs.
  foreground, background = (
    logits[..., span_ops.FOREGROUND],
    logits[..., span_ops.BACKGROUND],
  )
  scores = foreground - background
  mask = jnp.broadcast_to(predictions.num_steps[:, None] > 0, scores.shape)
  return Moments(segments, scores, mask)
