"""Reference implementation of the dense masked contrastive loss.

A global batch of b clips, some of which have a text. With L2-normalised
projections v_i (clips) and u_j (texts), s_ij = scale * v_i . u_j in float32:

  L_vt = - sum_i w_i log(sum_{j in P(i)} e^s_ij / sum_{j in P(i), N(i)} e^s_ij)
         / sum_i w_i

L_tv is the same with rows and columns swapped, and the loss is their mean.

* w_i is 1 for a valid clip with text, else 0: a background clip without text
  never pulls, but it stays in N for text -> video, so every caption must prefer
  its action over the background.
* P(i), the positives, are the entries with the text of clip i.
* N(i), the trusted negatives, are all other entries minus the pairs that a rule
  of `MaskRules` masks. A masked pair is absent: its gradient is exactly zero.

The sigmoid objective is the pairwise form over the same P and N:
  - sum_ij log sigmoid(z_ij (s_ij + bias)) / sum_i w_i,  z = +1 in P, -1 in N.

Edge cases, for every implementation of this loss:
* No text in the whole batch: the loss and all gradients are 0.
* A row whose negatives are all masked has value 0 and gradient 0. It keeps its
  weight in the normaliser, as in the formula; dropping it would make the weight
  of the other rows depend on who else is in the batch.
* Items with `valid` False change nothing: neither value nor gradient.
* bfloat16 embeddings are multiplied as such and accumulated in float32; float32
  embeddings are multiplied in full float32 on every platform, because at scale
  100 a product rounded to bfloat16 is wrong by up to 0.4.

The formula is this project's reconstruction from the abstract of
arXiv:2204.12293, not the paper's own.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from clap_jax.types import PairMetadata

# A finite maximum of an empty set: -inf - -inf would be NaN.
NO_ENTRY = -1e30
OBJECTIVES = ("softmax", "sigmoid")


@dataclasses.dataclass(frozen=True)
class MaskRules:
  """Rules that exclude pairs of a clip and another clip's text as negatives.

  Attributes:
    same_class: two action clips of one class.
    same_text: equal texts; they become positives of one another. When off,
      only a clip's own text is its positive and duplicates are negatives.
    overlapping_caption: a caption of the same video whose interval covers the
      whole clip, bounds included.
    background_pairs: two background clips that both have a generic text.
  """

  same_class: bool
  same_text: bool
  overlapping_caption: bool
  background_pairs: bool


PRESETS = {
  "captions": MaskRules(
    same_class=True,
    same_text=True,
    overlapping_caption=True,
    background_pairs=False,
  ),
  "labels": MaskRules(
    same_class=True,
    same_text=True,
    overlapping_caption=False,
    background_pairs=False,
  ),
  "prompted_background": MaskRules(
    same_class=True,
    same_text=True,
    overlapping_caption=False,
    background_pairs=True,
  ),
  "unmasked": MaskRules(
    same_class=False,
    same_text=False,
    overlapping_caption=False,
    background_pairs=False,
  ),
}


class PairMasks(NamedTuple):
  """Two disjoint masks over (clip, text) pairs; a pair in neither is absent."""

  positive: jax.Array  # bool (rows, columns)
  negative: jax.Array  # bool (rows, columns)


class PerMask(NamedTuple):
  """One value of any kind for each of the two masks."""

  positive: Any
  negative: Any


def text_groups(pairs: PairMetadata, rules: MaskRules) -> PairMetadata:
  """Sets `text_id` to the group of mutual positives; call once per batch.

  Under `same_text` it already is. Otherwise every item is its own group,
  numbered by its position in the global batch, so this must be called before
  the batch is cut into slices.
  """
  if rules.same_text:
    return pairs
  return pairs._replace(text_id=jnp.arange(pairs.valid.shape[0]))


def pair_masks(
  rows: PairMetadata, columns: PairMetadata, *, rules: MaskRules
) -> PairMasks:
  """Computes the masks of a tile: clips of `rows`, texts of `columns`.

  Args:
    rows: a slice of what `text_groups` returned, (r,) each.
    columns: another slice of the same, (c,) each.
    rules: rules of which pairs are not trusted negatives.

  Returns:
    Masks (r, c). A row that is padding and a column that is padding or has no
    text are False throughout.
  """

  def outer(combine, row, column):
    return combine(row[:, None], column[None, :])

  captioned = columns.valid & columns.has_text
  usable = outer(jnp.logical_and, rows.valid, captioned)
  same_text = outer(jnp.equal, rows.text_id, columns.text_id)
  same_text &= rows.has_text[:, None]
  excluded = same_text
  if rules.same_class:
    labelled = rows.is_action & (rows.class_id >= 0)
    same_class = outer(jnp.equal, rows.class_id, columns.class_id)
    excluded |= same_class & outer(jnp.logical_and, labelled, columns.is_action)
  if rules.overlapping_caption:
    excluded |= (
      outer(jnp.equal, rows.video_id, columns.video_id)
      & outer(jnp.greater_equal, rows.clip_start_sec, columns.caption_start_sec)
      & outer(jnp.less_equal, rows.clip_end_sec, columns.caption_end_sec)
    )
  if rules.background_pairs:
    excluded |= outer(
      jnp.logical_and,
      rows.generic_text & ~rows.is_action,
      columns.generic_text & ~columns.is_action,
    )
  return PairMasks(positive=usable & same_text, negative=usable & ~excluded)


def dot_precision(embedding: jax.Array) -> jax.lax.Precision:
  """Returns full precision for float32 embeddings, else the default."""
  if embedding.dtype == jnp.float32:
    return jax.lax.Precision.HIGHEST
  return jax.lax.Precision.DEFAULT


def similarity(video: jax.Array, text: jax.Array) -> jax.Array:
  """Computes inner products (r, d), (c, d) -> (r, c) in float32."""
  return jax.lax.dot_general(
    video,
    text,
    (((1,), (1,)), ((), ())),
    precision=dot_precision(video),
    preferred_element_type=jnp.float32,
  )


def caption_weights(pairs: PairMetadata) -> jax.Array:
  """Returns float32 (b,): 1 for a valid clip with text, else 0."""
  return (pairs.valid & pairs.has_text).astype(jnp.float32)


def safe_divide(total: jax.Array, count: jax.Array) -> jax.Array:
  """Computes total / count, and 0 where the count is 0."""
  return total / jnp.maximum(count, 1.0)


class LogSums(NamedTuple):
  """A log-sum-exp stored as peak + log(total); empty if total is 0."""

  peak: jax.Array  # float32 (n,), without gradient
  total: jax.Array  # float32 (n,)


def masked_log_sums(
  logits: jax.Array, mask: jax.Array, *, axis: int
) -> LogSums:
  """Computes the log-sum-exp over masked entries along an axis."""
  peak = jnp.max(logits, axis=axis, where=mask, initial=NO_ENTRY)
  peak = jax.lax.stop_gradient(peak)
  shifted = logits - jnp.expand_dims(peak, axis)
  exponential = jnp.exp(jnp.where(mask, shifted, -jnp.inf))
  return LogSums(peak, jnp.sum(exponential, axis=axis))


def item_gaps(
  positive: LogSums, negative: LogSums, weights: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Returns log n - log p of each item, and whether it has a loss.

  Without weight or negatives it has none, and the gap is 0. Peaks are
  subtracted first: a log-sum-exp near 100 would be rounded by 4e-6.
  """
  active = (negative.total > 0) & (weights > 0)
  logs = [
    jnp.log(jnp.where(active, sums.total, 1.0)) for sums in (negative, positive)
  ]
  gap = (negative.peak - positive.peak) + (logs[0] - logs[1])
  return jnp.where(active, gap, 0.0), active


def item_losses(
  positive: LogSums, negative: LogSums, weights: jax.Array
) -> jax.Array:
  """Computes weighted -log(p / (p + n)) per item; 0 without a loss.

  Written as softplus(log n - log p), which is exact also when p is almost 1.
  """
  gap, active = item_gaps(positive, negative, weights)
  return weights * jnp.where(active, jax.nn.softplus(gap), 0.0)


def direction_sum(
  logits: jax.Array, masks: PairMasks, weights: jax.Array, *, axis: int
) -> jax.Array:
  """Computes the weighted sum of softmax losses along one direction.

  Args:
    logits: float32 (rows, columns).
    masks: masks of the positives and the trusted negatives.
    weights: weights of the normalised items: rows for axis 1, else columns.
    axis: the axis that the softmax runs over.
  """
  positive, negative = (
    masked_log_sums(logits, mask, axis=axis) for mask in masks
  )
  return jnp.sum(item_losses(positive, negative, weights))


def pairwise_sum(
  logits: jax.Array, masks: PairMasks
) -> tuple[jax.Array, jax.Array]:
  """Sums sigmoid losses over the positives and over the negatives."""
  positive = jnp.where(masks.positive, jax.nn.softplus(-logits), 0.0)
  negative = jnp.where(masks.negative, jax.nn.softplus(logits), 0.0)
  return jnp.sum(positive), jnp.sum(negative)


def dense_loss(
  video: jax.Array,  # (b, d), L2-normalised
  text: jax.Array,  # (b, d), L2-normalised
  *,
  pairs: PairMetadata,  # (b,) each, as text_groups returned it
  logit_scale: jax.Array,  # (), already exponentiated
  logit_bias: jax.Array,  # (); read by the sigmoid objective only
  rules: MaskRules,
  objective: str,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
  """Computes the loss with the whole b x b matrix in memory.

  Returns:
    The loss and its two parts, all (): video -> text and text -> video for the
    softmax objective, positive and negative pairs for the sigmoid.
  """
  masks = pair_masks(pairs, pairs, rules=rules)
  weights = caption_weights(pairs)
  count = jnp.sum(weights)
  logits = logit_scale * similarity(video, text)
  if objective == "softmax":
    parts = (
      safe_divide(direction_sum(logits, masks, weights, axis=1), count),
      safe_divide(direction_sum(logits, masks, weights, axis=0), count),
    )
    return 0.5 * (parts[0] + parts[1]), parts
  positive, negative = pairwise_sum(logits + logit_bias, masks)
  parts = (safe_divide(positive, count), safe_divide(negative, count))
  return parts[0] + parts[1], parts
