"""Defines moments as shares of a video: (center, width)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from clap_jax.ops import segments as segment_ops

FOREGROUND, BACKGROUND = 0, 1  # logits of a moment in a set


class SpanPredictions(NamedTuple):
  """Moments for each query from every decoder layer, in order."""

  logits: jax.Array  # float32 (layers, q, m, 2), see FOREGROUND
  spans: jax.Array  # float32 (layers, q, m, 2): center, width
  saliency: jax.Array  # float32 (q, t)
  num_steps: jax.Array  # float32 (q,): features of the video


def ends(spans: jax.Array) -> jax.Array:  # (*b, 2) -> (*b, 2)
  """Converts (center, width) to (start, end)."""
  center, width = spans[..., 0], spans[..., 1]
  return jnp.stack([center - width / 2, center + width / 2], axis=-1)


def to_grid(spans: jax.Array, num_steps: jax.Array) -> jax.Array:
  """Converts spans (q, m, 2) to segments in grid units.

  Step i of the grid is the middle of feature i, so that the first feature
  begins at -0.5.
  """
  return ends(spans) * num_steps[:, None, None] - 0.5


def from_grid(segments: jax.Array, num_steps: jax.Array) -> jax.Array:
  """Inverts `to_grid`."""
  share = (segments + 0.5) / jnp.maximum(num_steps, 1)[:, None, None]
  width = share[..., 1] - share[..., 0]
  return jnp.stack([segment_ops.centers(share), width], axis=-1)
