"""Computes losses of the anchor-free localizer: classes and segments.

`localization_loss` combines the elementwise losses and returns sums with
counts, so that the caller can add them over devices before it divides.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from clap_jax.ops import points as point_ops
from clap_jax.ops import segments as segment_ops
from clap_jax.types import LocalizationBatch

SIMILARITIES = {
  "iou": segment_ops.iou,
  "giou": segment_ops.giou,
  "diou": segment_ops.diou,
}

_CHUNK = 16  # terms that are added in one chain


@dataclasses.dataclass(frozen=True)
class PointLossConfig:
  """Hyper-parameters of the loss over pyramid points.

  Attributes:
    center_radius: a point is positive within this many strides of the middle.
    focal_alpha: weight of positive class targets in (0, 1); negatives get
      1 - alpha; a negative value weighs both by one.
    focal_gamma: exponent that fades out easy examples, >= 0.
    label_smoothing: share of a class target spread over c + 1 classes, [0, 1).
    offset_similarity: "iou", "giou" or "diou".
    offset_weight: weight of the boundary loss relative to the class loss.
  """

  center_radius: float = 1.5
  focal_alpha: float = 0.25
  focal_gamma: float = 2.0
  label_smoothing: float = 0.0
  offset_similarity: str = "diou"
  offset_weight: float = 1.0

  def __post_init__(self):
    if self.offset_similarity not in SIMILARITIES:
      raise ValueError(
        f"offset_similarity must be one of {sorted(SIMILARITIES)}, got "
        f"{self.offset_similarity!r}."
      )
    if not 0 <= self.label_smoothing < 1:
      raise ValueError(
        f"label_smoothing must be in [0, 1), got {self.label_smoothing}."
      )
    if self.focal_gamma < 0 or self.focal_alpha > 1:
      raise ValueError(
        "focal_gamma must be >= 0 and focal_alpha <= 1, got "
        f"{self.focal_gamma} and {self.focal_alpha}."
      )


@dataclasses.dataclass(frozen=True)
class NormalizedLossConfig(PointLossConfig):
  """The loss of `PointLossConfig`, divided by a moving average of positives.

  Attributes:
    center_radius, focal_alpha, focal_gamma, label_smoothing, offset_similarity:
      see `PointLossConfig`.
    offset_weight: weight of the boundary loss relative to the class loss; 0 or
      less uses the weight at which both are equal.
    normalizer_start: the average before the first step, in positive points.
    normalizer_momentum: share of the average that a step keeps, [0, 1).
  """

  normalizer_start: float = 100.0
  normalizer_momentum: float = 0.9

  def __post_init__(self):
    super().__post_init__()
    if self.normalizer_start <= 0 or not 0 <= self.normalizer_momentum < 1:
      raise ValueError(
        "normalizer_start must be above 0 and normalizer_momentum in [0, 1), "
        f"got {self.normalizer_start} and {self.normalizer_momentum}."
      )


def smooth_labels(targets: jax.Array, *, smoothing: float) -> jax.Array:
  """Moves targets (*b, c) in {0, 1} towards 1 / (c + 1).

  The extra class is the background, which has no column of its own.
  """
  num_classes = targets.shape[-1]
  return targets * (1 - smoothing) + smoothing / (num_classes + 1)


def sigmoid_focal_loss(
  logits: jax.Array,  # (*b)
  targets: jax.Array,  # (*b), in [0, 1]
  *,
  alpha: float,
  gamma: float,
) -> jax.Array:  # (*b)
  """Computes the elementwise sigmoid focal loss.

  This is binary cross entropy times |target - probability|^gamma: for targets 0
  and 1 the focal loss; between them, its continuous extension. The weight is
  alpha for a target of one and 1 - alpha for zero, or one for both if alpha is
  negative.

  Source: Lin et al., ICCV 2017, equation 5.
  """
  entropy = (
    jnp.maximum(logits, 0)
    - logits * targets
    + jnp.log1p(jnp.exp(-jnp.abs(logits)))
  )
  probability = jax.nn.sigmoid(logits)
  miss = probability + targets - 2 * probability * targets
  # Rounding may leave the miss at or below zero, where a power with an
  # exponent below one has no finite gradient.
  loss = entropy * jnp.maximum(miss, 1e-8) ** gamma
  if alpha >= 0:
    loss = loss * (alpha * targets + (1 - alpha) * (1 - targets))
  return loss


def sum_in_chunks(values: jax.Array) -> jax.Array:
  """Sums values (b, ...) per video first, then over all videos.

  At the start of training most values are nearly equal, and a chain of equal
  terms rounds the same way again and again. How long XLA's chains are depends
  on how many videos of the batch a device holds, and so did the loss, by 2e-6.
  The barriers keep the chunks from being merged.
  """
  values = values.reshape(len(values), -1)
  while values.shape[1] > 1:
    filled = jnp.pad(values, ((0, 0), (0, -values.shape[1] % _CHUNK)))
    chunks = filled.reshape(len(values), -1, _CHUNK)
    values = jax.lax.optimization_barrier(jnp.sum(chunks, axis=-1))
  return jnp.sum(values)


def offset_loss(
  offsets: jax.Array,  # (*b, 2): distances to start and end, >= 0
  target_offsets: jax.Array,  # (*b, 2)
  *,
  similarity: str,
) -> jax.Array:  # (*b)
  """Computes 1 - IoU, GIoU or DIoU of two segments around one point."""
  position = jnp.zeros(offsets.shape[:-1], offsets.dtype)
  return 1 - SIMILARITIES[similarity](
    segment_ops.from_offsets(position, offsets),
    segment_ops.from_offsets(position, target_offsets),
  )


def assign_batch(
  predictions: point_ops.PointPredictions,
  *,
  segments: jax.Array,  # (b, n, 2), grid units
  labels: jax.Array,  # int32 (b, n)
  segment_mask: jax.Array,  # bool (b, n)
  center_radius: float,
) -> point_ops.PointTargets:  # every field with a leading b
  """Runs `assign_targets` on every video of a batch."""
  assign = functools.partial(
    point_ops.assign_targets,
    predictions.points,
    num_classes=predictions.class_logits.shape[-1],
    center_radius=center_radius,
  )
  return jax.vmap(
    lambda mask, s, y, m: assign(mask, segments=s, labels=y, segment_mask=m)
  )(predictions.point_mask, segments, labels, segment_mask)


def point_loss(
  predictions: point_ops.PointPredictions,
  targets: point_ops.PointTargets,
  *,
  config: PointLossConfig,
) -> dict[str, tuple[jax.Array, jax.Array]]:
  """Sums the class and the boundary loss over points for given targets.

  Returns:
    {"class": (sum, count), "offset": (sum, count)}, float32 scalars. The
    count of both is the number of positive points; the weight of the offset
    term is already in its sum. The loss is the total of sum / max(count, 1),
    after adding sums and counts over devices. Without a single positive the
    class sum still counts every valid point as background.
  """
  positive_mask = targets.positive_mask
  class_targets = smooth_labels(
    targets.class_targets, smoothing=config.label_smoothing
  )
  per_class = sigmoid_focal_loss(
    predictions.class_logits,
    class_targets,
    alpha=config.focal_alpha,
    gamma=config.focal_gamma,
  )
  valid = predictions.point_mask[..., None]
  # Away from positive points the target is empty: stand-ins of length two
  # keep the unused gradient finite.
  per_offset = offset_loss(
    jnp.where(positive_mask[..., None], predictions.offsets, 1.0),
    jnp.where(positive_mask[..., None], targets.offsets, 1.0),
    similarity=config.offset_similarity,
  )
  count = jnp.sum(positive_mask).astype(jnp.float32)
  class_sum = sum_in_chunks(jnp.where(valid, per_class, 0.0))
  offset_sum = sum_in_chunks(jnp.where(positive_mask, per_offset, 0.0))
  return {
    "class": (class_sum, count),
    "offset": (config.offset_weight * offset_sum, count),
  }


def localization_loss(
  predictions: point_ops.PointPredictions,
  batch: LocalizationBatch,
  *,
  config: PointLossConfig,
) -> dict[str, tuple[jax.Array, jax.Array]]:
  """Computes class and boundary loss of a batch, as `point_loss` does.

  Padding videos (video_index -1) add nothing.
  """
  valid = (batch.video_index >= 0)[:, None]
  predictions = predictions._replace(point_mask=predictions.point_mask & valid)
  targets = assign_batch(
    predictions,
    segments=batch.segments,
    labels=batch.labels,
    segment_mask=batch.segment_mask,
    center_radius=config.center_radius,
  )
  return point_loss(predictions, targets, config=config)


# Least boundary loss that an automatic weight divides by.
_LEAST_OFFSET_LOSS = 0.01


def normalized_loss(
  predictions: point_ops.PointPredictions,
  batch: LocalizationBatch,
  *,
  normalizer: jax.Array,  # float32 (), the average of the steps before
  config: NormalizedLossConfig,
) -> tuple[jax.Array, dict[str, jax.Array], jax.Array]:
  """Computes the loss of a batch, its two parts, and the new average.

  Source: the training of ActionFormer's public checkpoints.
  """
  unweighted = dataclasses.replace(config, offset_weight=1.0)
  sums = localization_loss(predictions, batch, config=unweighted)
  count = jnp.maximum(sums["class"][1], 1.0)
  kept = config.normalizer_momentum
  normalizer = jax.lax.stop_gradient(kept * normalizer + (1 - kept) * count)
  metrics = {name: total / normalizer for name, (total, _) in sums.items()}
  weight = config.offset_weight
  if weight <= 0:
    weight = jax.lax.stop_gradient(
      metrics["class"] / jnp.maximum(metrics["offset"], _LEAST_OFFSET_LOSS)
    )
  return metrics["class"] + weight * metrics["offset"], metrics, normalizer
