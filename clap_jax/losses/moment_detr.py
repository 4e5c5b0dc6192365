"""Computes Moment-DETR's loss: matched moments, labels and highlights.

Returns sums and counts, see query_targets.py.
"""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from clap_jax.losses.query_targets import QueryTargets, Sums
from clap_jax.ops import segments as segment_ops
from clap_jax.ops import spans as span_ops
from clap_jax.ops.spans import BACKGROUND, FOREGROUND, SpanPredictions


@dataclasses.dataclass(frozen=True)
class DetrLossConfig:
  """Hyper-parameters of the criterion.

  Attributes:
    span_weight: weight of the distance of center and width.
    iou_weight: weight of the generalized IoU.
    label_weight: weight of the cross entropy of foreground and background.
    saliency_weight: weight of the margin loss of highlights.
    background_weight: weight of unmatched moments in the cross entropy.
    saliency_margin: margin by which a highlight's score must exceed another.
    span_cost: cost of the distance in the matching.
    iou_cost: cost of the generalized IoU in the matching.
    label_cost: cost of the foreground's probability in the matching.
    every_layer: whether each decoder layer is matched and has a loss.
    max_windows: windows of a query that are matched, drawn where it has more.
    annotated_pairs: whether one of two pairs of highlights is that of the best
      and the worst step within the windows by the annotators' scores; else
      both are drawn from within and without.
  """

  span_weight: float = 10.0
  iou_weight: float = 1.0
  label_weight: float = 4.0
  saliency_weight: float = 1.0
  background_weight: float = 0.1
  saliency_margin: float = 0.2
  span_cost: float = 10.0
  iou_cost: float = 1.0
  label_cost: float = 4.0
  every_layer: bool = True
  max_windows: int = 5
  annotated_pairs: bool = True

  def __post_init__(self):
    values = dataclasses.asdict(self)
    numbers = {k: v for k, v in values.items() if isinstance(v, float)}
    if min(numbers.values()) < 0:
      raise ValueError(f"weights and costs must be >= 0, got {numbers}.")
    if self.max_windows < 1:
      raise ValueError(f"max_windows must be >= 1, got {self.max_windows}.")


def detr_loss(
  predictions: SpanPredictions,
  targets: QueryTargets,
  *,
  config: DetrLossConfig,
  asked: jax.Array,  # bool (q,): the others have no loss
  rng: jax.Array,
) -> Sums:
  """Computes the whole criterion.

  Windows beyond `max_windows` and the pairs of highlights are drawn by `rng`.

  Returns:
    {"label", "span", "iou", "saliency"}, and the first three with "_0", "_1",
    ... for the decoder layers before the last.
  """
  window_rng, pair_rng = jax.random.split(rng)
  windows, mask = _drawn_windows(
    window_rng,
    targets.segments,
    targets.segment_mask & asked[:, None],
    count=config.max_windows,
  )
  spans = span_ops.from_grid(windows, predictions.num_steps)
  start = 0 if config.every_layer else -1
  found = jax.vmap(
    lambda logits, own: layer_loss(
      logits, own, spans, mask=mask, asked=asked, config=config
    )
  )(predictions.logits[start:], predictions.spans[start:])
  last = len(predictions.logits[start:]) - 1
  sums = {
    name if layer == last else f"{name}_{layer}": (totals[layer], counts[layer])
    for name, (totals, counts) in found.items()
    for layer in range(last + 1)
  }
  pairs = draw_pairs(pair_rng, targets, annotated=config.annotated_pairs)
  return sums | pair_loss(
    predictions.saliency,
    pairs,
    has_pairs=pairs.has_pairs & asked & ~targets.is_absent,
    config=config,
  )


def match(
  logits: jax.Array,  # float32 (q, m, 2)
  spans: jax.Array,  # float32 (q, m, 2): center, width
  windows: jax.Array,  # float32 (q, n, 2): center, width
  *,
  mask: jax.Array,  # bool (q, n)
  config: DetrLossConfig,
) -> jax.Array:  # int32 (q, n)
  """Matches windows to moments at minimum total cost.

  Windows outside the mask get unused moments.

  Raises:
    ValueError: there are more windows than moments.
  """
  if windows.shape[1] > spans.shape[1]:
    raise ValueError(
      f"{windows.shape[1]} windows cannot each have one of {spans.shape[1]} "
      "moments; lower max_windows."
    )
  distance = jnp.sum(
    jnp.abs(spans[:, :, None] - windows[:, None]), axis=-1
  )  # (q, m, n)
  overlap = segment_ops.pairwise(
    segment_ops.giou, span_ops.ends(spans), other=span_ops.ends(windows)
  )
  probability = jax.nn.softmax(logits, axis=-1)[..., FOREGROUND]
  cost = (
    config.span_cost * distance
    - config.iou_cost * overlap
    - config.label_cost * probability[..., None]
  )
  # The same for all moments: it does not change which of them is best.
  cost = jax.lax.stop_gradient(jnp.where(mask[:, None], cost, 0.0))

  def assigned(own):  # (m, n)
    moment, window = optax.assignment.hungarian_algorithm(own)
    return jnp.zeros(own.shape[1], jnp.int32).at[window].set(moment)

  return jax.vmap(assigned)(cost)


def layer_loss(
  logits: jax.Array,  # float32 (q, m, 2)
  spans: jax.Array,  # float32 (q, m, 2): center, width
  windows: jax.Array,  # float32 (q, n, 2): center, width
  *,
  mask: jax.Array,  # bool (q, n)
  asked: jax.Array,  # bool (q,)
  config: DetrLossConfig,
) -> Sums:
  """Matches the moments of one decoder layer and computes their losses."""
  moments = match(logits, spans, windows, mask=mask, config=config)
  count = jnp.sum(mask).astype(jnp.float32)
  matched = jnp.take_along_axis(spans, moments[..., None], axis=1)
  distance = jnp.sum(jnp.abs(matched - windows), axis=-1)
  # Where nothing is compared, stand-ins keep the unused gradient finite.
  stand_in = jnp.array([0.5, 1.0])
  overlap = segment_ops.giou(
    span_ops.ends(jnp.where(mask[..., None], matched, stand_in)),
    span_ops.ends(jnp.where(mask[..., None], windows, stand_in)),
  )
  is_matched = jnp.any(
    jax.nn.one_hot(moments, logits.shape[1], dtype=bool) & mask[..., None],
    axis=1,
  )  # (q, m)
  log_probability = jax.nn.log_softmax(logits, axis=-1)
  entropy = -jnp.where(
    is_matched,
    log_probability[..., FOREGROUND],
    config.background_weight * log_probability[..., BACKGROUND],
  )
  num_moments = logits.shape[1] * jnp.sum(asked).astype(jnp.float32)
  return {
    "label": (
      config.label_weight * jnp.sum(jnp.where(asked[:, None], entropy, 0.0)),
      num_moments,
    ),
    # The mean over both numbers of a span.
    "span": (
      config.span_weight * jnp.sum(jnp.where(mask, distance, 0.0)),
      2 * count,
    ),
    "iou": (
      config.iou_weight * jnp.sum(jnp.where(mask, 1 - overlap, 0.0)),
      count,
    ),
  }


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Pairs:
  """Pairs of steps, the first of which should score higher."""

  positives: jax.Array  # int32 (q, k)
  negatives: jax.Array  # int32 (q, k)
  has_pairs: jax.Array  # bool (q,)


def pair_loss(
  saliency: jax.Array,  # float32 (q, t)
  pairs: Pairs,
  *,
  has_pairs: jax.Array,  # bool (q,)
  config: DetrLossConfig,
) -> Sums:
  """Computes the margin loss of pairs: twice their mean, as published."""
  higher, lower = (
    jnp.take_along_axis(saliency, steps, axis=1)
    for steps in (pairs.positives, pairs.negatives)
  )
  loss = jnp.maximum(config.saliency_margin + lower - higher, 0.0)
  total = jnp.sum(jnp.where(has_pairs[:, None], loss, 0.0))
  count = loss.shape[1] * jnp.sum(has_pairs).astype(jnp.float32)
  return {"saliency": (2 * config.saliency_weight * total, count)}


def draw_pairs(
  rng: jax.Array, targets: QueryTargets, *, annotated: bool
) -> Pairs:
  """Draws two pairs of steps inside and outside the windows per query.

  Args:
    targets: targets of q queries.
    annotated: whether the first pair is that of the best and the worst step
      within, by the annotators' scores; a query without a step outside has
      this pair twice.
  """
  inside_rng, outside_rng = jax.random.split(rng)
  step = jnp.arange(targets.snippet_mask.shape[1])
  start, end = targets.segments[..., :1], targets.segments[..., 1:]
  inside = (step >= start) & (step < end) & targets.segment_mask[..., None]
  inside = jnp.any(inside, axis=1) & targets.snippet_mask
  outside = targets.snippet_mask & ~inside
  count = 1 if annotated else 2
  positives = _drawn_steps(inside_rng, inside, count=count)
  negatives = _drawn_steps(outside_rng, outside, count=count)
  is_inside, is_outside = jnp.any(inside, axis=1), jnp.any(outside, axis=1)
  if not annotated:
    return Pairs(positives, negatives, is_inside & is_outside)
  score = targets.saliency
  # Of equal scores the last is the best and the first the worst.
  best = jnp.where(inside, score, -jnp.inf)[:, ::-1]
  best = score.shape[1] - 1 - jnp.argmax(best, axis=1, keepdims=True)
  worst = jnp.where(inside, score, jnp.inf)
  worst = jnp.argmin(worst, axis=1, keepdims=True)
  positives = jnp.where(is_outside[:, None], positives, best)
  negatives = jnp.where(is_outside[:, None], negatives, worst)
  return Pairs(
    jnp.concatenate([best, positives], axis=1),
    jnp.concatenate([worst, negatives], axis=1),
    is_inside,
  )


def _drawn_steps(rng, pool: jax.Array, *, count: int) -> jax.Array:
  """Draws distinct steps (q, count) of a pool (q, t), if it has enough."""
  order = jnp.where(pool, jax.random.uniform(rng, pool.shape), -1.0)
  best, steps = jax.lax.top_k(order, count)
  return jnp.where(best >= 0, steps, steps[:, :1])


def _drawn_windows(
  rng, windows: jax.Array, mask: jax.Array, *, count: int
) -> tuple[jax.Array, jax.Array]:
  """Draws at most `count` of the windows (q, n, 2), with their mask."""
  if windows.shape[1] <= count:
    return windows, mask
  order = jnp.where(mask, jax.random.uniform(rng, mask.shape), -1.0)
  best, index = jax.lax.top_k(order, count)
  return jnp.take_along_axis(windows, index[..., None], axis=1), best >= 0
