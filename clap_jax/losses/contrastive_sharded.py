"""Computes the masked contrastive loss across the devices of a mesh.

Trainers call `contrastive_loss`; `contrastive.py` defines the value.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from clap_jax.losses import contrastive, contrastive_ring, contrastive_tiles
from clap_jax.losses.contrastive import MaskRules
from clap_jax.types import PairMetadata

IMPLEMENTATIONS = ("auto", "dense", "gathered", "tiled", "ring")

# Up to this many entries per device (16 MiB in float32) the whole slice of the
# matrix is cheaper than tiles; up to this many floats per device (64 MiB) so is
# one gather of the texts than a ring of small messages.
_MAX_MATRIX_ENTRIES = 2**22
_MAX_GATHERED_FLOATS = 2**24


def batch_axes(axis_names: tuple[str, ...] | None) -> tuple[str, ...]:
  """Returns the named axes of the ambient mesh with a size above 1."""
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or not axis_names:
    return ()
  return tuple(
    name
    for name in axis_names
    if name in mesh.axis_names and mesh.shape[name] > 1
  )


def num_shards(axes: tuple[str, ...]) -> int:
  """Returns the number of batch shards of the ambient mesh."""
  mesh = jax.sharding.get_abstract_mesh()
  size = 1
  for name in axes:
    size *= mesh.shape[name]
  return size


def _gathered_column_sum(logits, masks, weights, axes):
  """Computes direction_sum over columns that are sharded over devices."""

  def merge(sums):
    peak = jax.lax.pmax(sums.peak, axes)
    total = sums.total * jnp.exp(sums.peak - peak)
    return contrastive.LogSums(peak, jax.lax.psum(total, axes))

  positive, negative = (
    merge(contrastive.masked_log_sums(logits, mask, axis=0)) for mask in masks
  )
  return jnp.sum(contrastive.item_losses(positive, negative, weights))


def _gathered_shard(
  video, text, pairs, logit_scale, logit_bias, *, rules, objective, axes
):
  """Computes the loss of one device's clips and all devices' texts.

  One product per device gives both directions: the rows are complete here, the
  columns are completed by a sum over devices. Gradients flow back through the
  gather as a reduce-scatter.
  """
  gather = functools.partial(
    jax.lax.all_gather, axis_name=axes, axis=0, tiled=True
  )
  columns = jax.tree.map(gather, pairs)
  masks = contrastive.pair_masks(pairs, columns, rules=rules)
  weights = contrastive.caption_weights(pairs)
  count = jax.lax.psum(jnp.sum(weights), axes)
  logits = logit_scale * contrastive.similarity(video, gather(text))
  if objective == "softmax":
    rows = contrastive.direction_sum(logits, masks, weights, axis=1)
    column_sum = _gathered_column_sum(
      logits, masks, contrastive.caption_weights(columns), axes
    )
    parts = (jax.lax.psum(rows, axes), jax.lax.pmean(column_sum, axes))
    parts = tuple(contrastive.safe_divide(part, count) for part in parts)
    return 0.5 * (parts[0] + parts[1]), parts
  sums = contrastive.pairwise_sum(logits + logit_bias, masks)
  parts = tuple(
    contrastive.safe_divide(jax.lax.psum(part, axes), count) for part in sums
  )
  return parts[0] + parts[1], parts


def gathered_loss(
  video, text, *, pairs, logit_scale, logit_bias, rules, objective, axes
):
  """Computes `dense_loss` with the rows of the matrix sharded over `axes`."""
  rows, whole = PartitionSpec(axes), PartitionSpec()
  shard = functools.partial(
    _gathered_shard, rules=rules, objective=objective, axes=axes
  )
  return jax.shard_map(
    shard,
    in_specs=(rows, rows, rows, whole, whole),
    out_specs=whole,
  )(video, text, pairs, logit_scale, logit_bias)


def resolve_implementation(
  implementation: str, *, batch: int, width: int, shards: int
) -> str:
  """Resolves `auto` to an implementation; keeps others.

  On one device `gathered` is `dense` and `ring` is `tiled`.
  """
  if implementation == "auto":
    if batch * batch // shards <= _MAX_MATRIX_ENTRIES:
      implementation = "gathered"
    elif shards == 1 or batch * width <= _MAX_GATHERED_FLOATS:
      implementation = "tiled"
    else:
      implementation = "ring"
  if shards == 1:
    single = {"gathered": "dense", "ring": "tiled"}
    return single.get(implementation, implementation)
  return implementation


def _check_names(objective, implementation):
  for name, value, choices in (
    ("objective", objective, contrastive.OBJECTIVES),
    ("implementation", implementation, IMPLEMENTATIONS),
  ):
    if value not in choices:
      raise ValueError(
        f"{name} must be one of {', '.join(choices)}, got {value!r}."
      )


def _check_shapes(video, text, pairs, shards):
  if video.ndim != 2 or video.shape != text.shape:
    raise ValueError(
      "video and text must both be (b, d), one row per clip: got "
      f"{video.shape} and {text.shape}. A clip without text needs a row too, "
      "any finite values, with has_text False."
    )
  if pairs.valid.shape != video.shape[:1]:
    raise ValueError(
      f"pairs must hold ({video.shape[0]},) vectors like the embeddings, got "
      f"{pairs.valid.shape}."
    )
  if video.shape[0] % shards:
    raise ValueError(
      f"The batch of {video.shape[0]} must be a multiple of the {shards} "
      "devices it is spread over: pad it with items that have valid False."
    )


def contrastive_loss(
  video: jax.Array,  # (b, d), L2-normalised
  text: jax.Array,  # (b, d), L2-normalised
  pairs: PairMetadata,  # (b,) each
  logit_scale: jax.Array,  # (), already exponentiated
  *,
  rules: MaskRules,
  objective: str = "softmax",
  logit_bias: jax.Array | None = None,
  axis_names: tuple[str, ...] | None = ("data", "fsdp"),
  implementation: str = "auto",
  tile_size: int = 512,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Computes the masked contrastive loss of a global batch.

  Call it inside jit under `jax.set_mesh(mesh)` with the batch spread over the
  mesh axes `axis_names` (those the mesh has; all other axes hold copies). With
  no mesh, or one device along these axes, it runs on one device.

  Args:
    video: clip projections.
    text: text projections; rows without text are ignored, but must be finite.
    pairs: inputs of the mask rules for each clip.
    logit_scale: multiplies the cosines.
    rules: a value of `contrastive.PRESETS`, or your own.
    objective: `softmax` or `sigmoid`.
    logit_bias: added to the logits of the sigmoid objective; None is 0.
    axis_names: mesh axes of the batch; None ignores the mesh.
    implementation: all give the same value; b is the batch, n the devices.
      `dense`: left to the compiler's partitioner, b^2 / n floats a few times.
      `gathered`: each device holds its rows of the matrix, the same memory.
      `tiled`: texts gathered, 2 b d floats per device.
      `ring`: texts go round, about 8 b d / n floats per device.
      `auto`: the first of gathered, tiled, ring that is small enough.
    tile_size: side of the tiles of `tiled` and `ring`, in items.

  Returns:
    The loss, float32 (), and metrics, float32 () each, without gradient:
    `num_valid` clips, `num_captions`, and the two parts of the loss:
    `video_to_text` and `text_to_video`, or `positive_pairs` and
    `negative_pairs` for the sigmoid.

  Raises:
    ValueError: for an unknown name or shapes that do not match.
  """
  axes = batch_axes(axis_names)
  shards = num_shards(axes)
  _check_names(objective, implementation)
  _check_shapes(video, text, pairs, shards)
  pairs = jax.tree.map(jnp.asarray, pairs)
  grouped = contrastive.text_groups(pairs, rules)
  scalars = contrastive_tiles.Scalars(
    scale=jnp.asarray(logit_scale, jnp.float32),
    bias=jnp.asarray(0.0 if logit_bias is None else logit_bias, jnp.float32),
  )
  batch, width = video.shape
  schedule = resolve_implementation(
    implementation, batch=batch, width=width, shards=shards
  )
  if schedule in ("dense", "gathered"):
    function = contrastive.dense_loss
    if schedule == "gathered":
      function = functools.partial(gathered_loss, axes=axes)
    loss, parts = function(
      video,
      text,
      pairs=grouped,
      logit_scale=scalars.scale,
      logit_bias=scalars.bias,
      rules=rules,
      objective=objective,
    )
  else:
    tile = contrastive_tiles.TilePlan(rules, objective, tile_size)
    plan = contrastive_ring.SweepPlan(tile, axes, shards, schedule)
    sweep: Any = contrastive_ring.sweep_loss  # a custom_vjp has no signature
    loss, parts = sweep(plan, video, text, grouped, scalars)
  return loss, _metrics(pairs, parts, objective)


def _metrics(pairs, parts, objective) -> dict[str, jax.Array]:
  if objective == "softmax":
    names = ("video_to_text", "text_to_video")
  else:
    names = ("positive_pairs", "negative_pairs")
  metrics: dict[str, jax.Array] = dict(zip(names, parts, strict=True))
  metrics["num_valid"] = jnp.sum(pairs.valid.astype(jnp.float32))
  metrics["num_captions"] = jnp.sum(contrastive.caption_weights(pairs))
  return jax.lax.stop_gradient(metrics)
