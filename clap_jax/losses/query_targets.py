"""Defines inputs and outputs of the losses of grounders.

All take the queries of a batch as rows, see `query_targets`, and return
{name: (sum, count)} as float32 scalars with the weight already in the sum; the
loss is the total of sum / max(count, 1) after adding both over devices.
Queries that are not `valid` add nothing.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from clap_jax.types import GroundingBatch

Sums = dict[str, tuple[jax.Array, jax.Array]]


class QueryTargets(NamedTuple):
  """Ground truth of q queries of any videos."""

  segments: jax.Array  # float32 (q, n, 2), grid units
  segment_mask: jax.Array  # bool (q, n)
  saliency: jax.Array  # float32 (q, t) in [0, 1]
  snippet_mask: jax.Array  # bool (q, t)
  is_absent: jax.Array  # bool (q,)
  valid: jax.Array  # bool (q,)


def query_targets(batch: GroundingBatch) -> QueryTargets:
  """Flattens the queries of all videos of a batch to rows."""
  num_queries = batch.valid.shape[1]
  return QueryTargets(
    segments=_rows(batch.segments),
    segment_mask=_rows(batch.segment_mask),
    saliency=_rows(batch.saliency),
    snippet_mask=jnp.repeat(batch.mask, num_queries, axis=0),
    is_absent=_rows(batch.is_absent),
    valid=_rows(batch.valid),
  )


def _rows(x: jax.Array) -> jax.Array:  # (b, q, ...) -> (b * q, ...)
  return x.reshape(-1, *x.shape[2:])
