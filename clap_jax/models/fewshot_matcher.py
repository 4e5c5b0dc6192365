"""Localizes actions by matching a query with prototypes of its support.

The method is query-adaptive matching (Nag et al., BMVC 2021, "QAT"): a class is
the mean of its support's action features, fitted to the support by a few steps
of gradient descent and then adapted to the query by attention. Unlike in the
released code, all parameters persist over episodes, vectors are normalised over
channels, the loss includes the query's background, and boundaries are regressed
rather than thresholded.
"""

import dataclasses
import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from clap_jax.models.dual_encoder import l2_normalise
from clap_jax.models.heads import HeadConfig, PointHead
from clap_jax.models.layers import Dense
from clap_jax.models.pyramid import (
  Level,
  Pyramid,
  PyramidConfig,
  drop_gaps,
  join_levels,
)
from clap_jax.ops.masking import keep, masked_mean, masked_softmax
from clap_jax.ops.points import PointPredictions
from clap_jax.types import EpisodeBatch


@dataclasses.dataclass(frozen=True)
class MatcherConfig:
  """Hyper-parameters of the matching with the support.

  Attributes:
    adapt_steps: steps of gradient descent on the support; 0 keeps the means.
    num_heads: heads of the attention over the query; 0 disables it.
    use_text: whether to add cosines with the class name.
  """

  adapt_steps: int = 10
  num_heads: int = 2
  use_text: bool = False

  def __post_init__(self):
    if self.adapt_steps < 0 or self.num_heads < 0:
      raise ValueError(
        "adapt_steps and num_heads must be at least 0, got "
        f"{self.adapt_steps} and {self.num_heads}."
      )


class Prototypes(NamedTuple):
  """Classifiers of ways: a linear map of a feature, then a threshold."""

  weight: jax.Array  # (b, n, d)
  threshold: jax.Array  # (b, n)
  text_weight: jax.Array  # (b, n)


class Support(NamedTuple):
  """Steps of all support videos of an episode in one row. All (b, ...)."""

  features: jax.Array  # (b, m, d), unit vectors
  text: jax.Array  # (b, m, n), cosines with the ways' names
  positive_mask: jax.Array  # bool (b, n, m): action of the way
  negative_mask: jax.Array  # bool (b, n, m): its background, others' actions


class Matcher(nn.Module):
  """Predicts pyramid points of episodes, one class per way.

  A point's logit for a way is the sum of its match with the way's prototype and
  a class-agnostic part that separates an action's middle from its ends; its
  offsets are class-agnostic as well. Both transfer from the training classes.
  """

  pyramid: PyramidConfig
  head: HeadConfig
  config: MatcherConfig

  def setup(self):
    constant, width = nn.initializers.constant, self.pyramid.width
    self.trunk = Pyramid(self.pyramid)
    self.points = PointHead(
      1,
      self.pyramid.num_levels,
      self.pyramid.range_factor,
      self.head,
    )
    # Cosines are in [-1, 1]; QAT multiplies them by 20.
    self.scale = self.param("scale", constant(20.0), ())
    self.threshold = self.param("threshold", constant(0.5), ())  # a cosine
    self.gain = self.param("gain", constant(0.3), ())
    self.step_size = self.param("step_size", _initial_steps, (3,))
    if self.config.use_text:
      self.text_scale = self.param("text_scale", constant(5.0), ())
    if self.config.num_heads:
      self.look_q = Dense(width)
      self.look_k = Dense(width)
      self.look_v = Dense(width)
      self.look_out = Dense(width, kernel_init=nn.initializers.zeros_init())

  def __call__(
    self, batch: EpisodeBatch, *, deterministic: bool = True
  ) -> PointPredictions:
    query = self.encode(
      batch.query, batch.query_mask, deterministic=deterministic
    )
    *lead, num_steps, width = batch.support.shape
    support = self.encode(
      batch.support.reshape(-1, num_steps, width),
      batch.support_mask.reshape(-1, num_steps),
      deterministic=deterministic,
    )[0].features.reshape(*lead, num_steps, -1)
    return self.match(
      batch._replace(query=query, support=support), deterministic=deterministic
    )

  def encode(
    self,
    features: jax.Array,  # (b, t, d)
    mask: jax.Array,  # bool (b, t)
    *,
    deterministic: bool = True,
  ) -> tuple[Level, ...]:
    """Encodes one video, independently of episodes."""
    return self.trunk(features, mask, deterministic=deterministic)

  def match(
    self, batch: EpisodeBatch, *, deterministic: bool = True
  ) -> PointPredictions:
    """Computes predictions for a batch of encoded videos.

    Its `query` holds the levels that `encode` returned, its `support` the
    features of the finest level, (b, n, k, t, d).
    """
    levels = batch.query
    prototypes = self._prototypes(flatten_support(batch, batch.support))
    prototypes = self._look_at_query(prototypes, levels[0])
    num_steps = levels[0].mask.shape[1]
    shape = {
      "num_steps": num_steps,
      "num_levels": self.pyramid.num_levels,
      "gap": self.head.gap,
    }
    joined = join_levels(levels, gap=self.head.gap)
    texts = tuple(
      Level(batch.query_text[:, :: 2**i, :-1], level.mask)
      for i, level in enumerate(levels)
    )
    match = match_logits(
      prototypes,
      l2_normalise(joined.features),
      join_levels(texts, gap=self.head.gap).features,
      scale=self.scale,
      text_scale=self._text_scale,
    )
    points = self.points(
      joined, num_steps=num_steps, deterministic=deterministic
    )
    match = drop_gaps(jnp.swapaxes(match, 1, 2), **shape)
    return points._replace(class_logits=points.class_logits + self.gain * match)

  @property
  def _text_scale(self):
    return self.text_scale if self.config.use_text else 0.0

  def _prototypes(self, support: Support) -> Prototypes:
    """Computes means of the support, fitted to it."""
    weight = class_means(support)
    start = Prototypes(
      weight,
      jnp.full(weight.shape[:2], 1.0) * self.scale * self.threshold,
      jnp.ones(weight.shape[:2]),
    )
    return adapt(
      start,
      support,
      scale=self.scale,
      text_scale=self._text_scale,
      step_size=nn.softplus(self.step_size),
      num_steps=self.config.adapt_steps,
    )

  def _look_at_query(self, prototypes: Prototypes, query: Level) -> Prototypes:
    """Adds the result of attention over the query to each prototype."""
    num_heads = self.config.num_heads
    if not num_heads:
      return prototypes
    weight = l2_normalise(prototypes.weight)

    def heads(x):  # (b, l, d) -> (b, l, h, d / h)
      return x.reshape(*x.shape[:2], num_heads, -1)

    q = heads(self.look_q(weight))
    k, v = (
      heads(self.look_k(query.features)),
      heads(self.look_v(query.features)),
    )
    logits = jnp.einsum("bnhe,bthe->bhnt", q, k) / math.sqrt(q.shape[-1])
    attention = masked_softmax(logits, query.mask[:, None, None], axis=-1)
    seen = jnp.einsum("bhnt,bthe->bnhe", attention, v)
    return prototypes._replace(
      weight=weight + self.look_out(seen.reshape(weight.shape))
    )


def flatten_support(batch: EpisodeBatch, features: jax.Array) -> Support:
  """Concatenates all support videos of an episode in one row.

  A way's negatives are the background of its own videos and the actions of
  other ways. Other parts of their videos are not labelled for it.
  """
  b, n, k, t = batch.support_mask.shape
  own = jnp.repeat(jnp.eye(n, dtype=bool), k * t, axis=1)[None]  # (1, n, m)
  action = (batch.support_action & batch.support_mask).reshape(b, 1, -1)
  valid = batch.support_mask.reshape(b, 1, -1)
  return Support(
    features=l2_normalise(
      keep(features, batch.support_mask).reshape(b, n * k * t, -1)
    ),
    text=batch.support_text[..., :-1].reshape(b, n * k * t, n),
    positive_mask=own & action,
    negative_mask=valid & jnp.where(own, ~action, action),
  )


def class_means(support: Support) -> jax.Array:
  """Computes the mean action feature of every way as unit vectors (b, n, d)."""
  total = jnp.einsum(
    "bnm,bmd->bnd",
    support.positive_mask.astype(support.features.dtype),
    support.features,
  )
  return l2_normalise(total)


def match_logits(
  prototypes: Prototypes,
  features: jax.Array,  # (b, m, d), unit vectors
  text: jax.Array,  # (b, m, n)
  *,
  scale: jax.Array | float,
  text_scale: jax.Array | float,
) -> jax.Array:  # (b, n, m)
  """Computes scaled cosines with prototypes and names, less the threshold."""
  cosine = jnp.einsum("bmd,bnd->bnm", features, l2_normalise(prototypes.weight))
  by_name = prototypes.text_weight[..., None] * jnp.swapaxes(text, 1, 2)
  return scale * cosine + text_scale * by_name - prototypes.threshold[..., None]


def adapt(
  start: Prototypes,
  support: Support,
  *,
  scale: jax.Array | float,
  text_scale: jax.Array | float,
  step_size: jax.Array,  # (3,): for vector, threshold and text weight
  num_steps: int,
) -> Prototypes:
  """Runs gradient descent on the balanced cross-entropy of the support.

  A way without a positive or without a negative is unchanged. All steps are
  differentiable, so that initial values are learned.
  """

  def loss(prototypes):
    logits = match_logits(
      prototypes,
      support.features,
      support.text,
      scale=scale,
      text_scale=text_scale,
    )
    missed = masked_mean(
      jax.nn.softplus(-logits), support.positive_mask, axis=-1
    )
    false = masked_mean(jax.nn.softplus(logits), support.negative_mask, axis=-1)
    both = support.positive_mask.any(-1) & support.negative_mask.any(-1)
    return jnp.sum(jnp.where(both, missed + false, 0.0))

  def step(prototypes, _):
    gradient = jax.grad(loss)(prototypes)
    moved = [
      value - size * slope
      for value, size, slope in zip(
        prototypes, step_size, gradient, strict=True
      )
    ]
    return Prototypes(*moved), None

  return jax.lax.scan(step, start, length=num_steps)[0]


def _initial_steps(rng, shape):
  """Returns softplus^-1 of 0.01, 0.5 and 0.1, in the order of `Prototypes`."""
  del rng, shape
  return jnp.log(jnp.expm1(jnp.array([0.01, 0.5, 0.1])))
