"""Suppresses overlapping segments greedily, with static shapes.

All functions process the segments of one video, in any order and without a
batch axis; vmap over a batch. Scores are >= 0. They return exactly `num_kept`
entries, best first, and mask those without a segment (zero segment, score and
label). Ties are broken by input order.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from clap_jax.ops import segments as segment_ops
from clap_jax.types import Detections

# Marks a segment that is taken, invalid or suppressed; below every score.
_GONE = -1.0


def soft_nms(
  candidates: Detections,
  *,
  num_kept: int,
  sigma: float,
  min_score: float,
  class_wise: bool,
  least_iou: jax.Array | None = None,
) -> Detections:
  """Computes Gaussian soft-NMS: picks decay others by exp(-IoU^2 / sigma).

  Kept scores are the decayed ones and never increase. Class-wise, the result
  equals running each class by itself and merging by decayed score, because
  the decayed scores of successive picks of a class never increase.

  Source: Bodla et al., ICCV 2017.

  Args:
    candidates: n scored segments.
    num_kept: number k of segments of the result.
    sigma: width of the decay; > 0.
    min_score: minimum decayed score of kept segments.
    class_wise: whether only segments of one label decay each other.
    least_iou: (n,), of each segment the IoU above which it decays others; None
      for 0.
  """

  def rescale(scores, iou, best):
    decayed = scores * jnp.exp(-(iou**2) / sigma)
    if least_iou is None:
      return decayed
    return jnp.where(iou > least_iou[best], decayed, scores)

  return _greedy(
    candidates,
    num_kept=num_kept,
    min_score=min_score,
    class_wise=class_wise,
    rescale=rescale,
  )


def vote(
  kept: Detections,
  candidates: Detections,
  *,
  iou_threshold: float,
  class_wise: bool,
) -> Detections:
  """Replaces kept segments by a mean of the candidates that overlap them.

  The weight is score times IoU of every candidate (scores before suppression)
  whose IoU with the kept segment reaches the threshold, as ActionFormer does
  it. A kept segment that no candidate reaches stays as it is.
  """
  iou = segment_ops.pairwise(
    segment_ops.iou, kept.segments, other=candidates.segments
  )  # (k, n)
  related = (iou >= iou_threshold) & candidates.mask[None]
  if class_wise:
    related &= kept.labels[:, None] == candidates.labels[None]
  weight = jnp.where(related, iou * candidates.scores[None], 0.0)
  total = jnp.sum(weight, axis=-1, keepdims=True)
  mean = weight @ candidates.segments / jnp.where(total > 0, total, 1.0)
  return kept._replace(segments=jnp.where(total > 0, mean, kept.segments))


def best_candidates(
  candidates: Detections, *, num_kept: int, min_score: float
) -> Detections:
  """Returns the best `num_kept` candidates without suppression."""
  return _greedy(
    candidates,
    num_kept=num_kept,
    min_score=min_score,
    class_wise=False,
    rescale=lambda scores, iou, best: scores,
  )


def _greedy(
  candidates: Detections,
  *,
  num_kept: int,
  min_score: float,
  class_wise: bool,
  rescale: Callable[[jax.Array, jax.Array, jax.Array], jax.Array],
) -> Detections:
  """Takes the best and rescales the rest by their IoU with it, k times."""

  # XLA needs fixed shapes: `num_kept` steps over all candidates, where those
  # that are taken or masked have a negative score instead of being removed.
  def pick(scores, _):
    best = jnp.argmax(scores)
    overlap = segment_ops.iou(candidates.segments[best], candidates.segments)
    if class_wise:
      same = candidates.labels == candidates.labels[best]
      overlap = jnp.where(same, overlap, 0.0)
    rest = jnp.where(scores < 0, _GONE, rescale(scores, overlap, best))
    return rest.at[best].set(_GONE), (best, scores[best])

  candidates = jax.tree.map(jnp.asarray, candidates)
  enough = candidates.mask & (candidates.scores >= min_score)
  scores = jnp.where(enough, candidates.scores, _GONE)
  _, (index, kept_scores) = jax.lax.scan(pick, scores, length=num_kept)
  mask = (kept_scores >= 0) & (kept_scores >= min_score)
  return Detections(
    segments=jnp.where(mask[:, None], candidates.segments[index], 0.0),
    scores=jnp.where(mask, kept_scores, 0.0),
    labels=jnp.where(mask, candidates.labels[index], 0),
    mask=mask,
  )
