"""Defines the contrastive, class and region losses of pre-training."""

import dataclasses
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np

from clap_jax import config as config_lib
from clap_jax import types
from clap_jax.losses import (
  contrastive,
  contrastive_sharded,
  microbatches,
)
from clap_jax.models import dual_encoder
from clap_jax.training import deterministic
from clap_jax.training import mesh as mesh_lib
from clap_jax.training import task as task_lib


@dataclasses.dataclass(frozen=True)
class LossConfig:
  """Weights of the losses; a weight of 0 disables its loss."""

  contrastive_weight: float = config_lib.ranged(minimum=0.0)
  class_weight: float = config_lib.ranged(minimum=0.0)
  region_weight: float = config_lib.ranged(minimum=0.0)
  preset: str = config_lib.choice(*contrastive.PRESETS)
  objective: str = config_lib.choice(*contrastive.OBJECTIVES)
  implementation: str = config_lib.choice(*contrastive_sharded.IMPLEMENTATIONS)
  # Parts of each device's share that the towers encode one after the other, at
  # the price of a second forward pass; the loss sees the whole batch.
  num_microbatches: int = config_lib.ranged(default=1, minimum=1)
  # Slices, a power of two, in which a deterministic run goes through the batch:
  # the same bits on 1, 2, 4 and so on up to as many devices; 0: the fast way.
  deterministic: int = config_lib.ranged(default=0, minimum=0)

  def __post_init__(self):
    slices = self.deterministic
    if slices & (slices - 1):
      raise ValueError(f"deterministic must be a power of two, got {slices}.")
    if slices and self.num_microbatches > 1:
      raise ValueError(
        "deterministic has slices of its own: set num_microbatches to 1."
      )
    if not self.contrastive_weight + self.class_weight + self.region_weight:
      raise ValueError(
        "contrastive_weight, class_weight and region_weight are all 0; nothing "
        "would be learned. Give one of them a positive weight."
      )


def init(model: dual_encoder.DualEncoder, rng: jax.Array):
  """Initialises the parameters of both towers."""
  config = model.config
  side, frames = config.image_size, config.num_frames
  return model.init(
    rng,
    np.zeros((1, frames, side, side, 3), np.uint8),
    np.zeros((1, config.max_text_length), np.int32),
    np.ones((1, config.max_text_length), bool),
  )


@dataclasses.dataclass(frozen=True)
class PretrainTask:
  """Pre-training task on clips and texts; see training/task.py."""

  model: dual_encoder.DualEncoder
  loss_config: LossConfig

  def init(self, rng):
    return init(self.model, rng)

  def loss(self, params, batch: types.ClipBatch, rng):
    del rng  # augmentation happens on the host
    tracked = {}
    if self.loss_config.num_microbatches > 1:
      output = self._in_microbatches(params, batch)
    else:
      output, tracked = self.model.apply(
        params,
        batch.frames,
        batch.tokens,
        batch.token_mask,
        train=True,
        mutable=task_lib.TRACKED_COLLECTIONS,
      )
    total, metrics = self._objective(output, batch.pairs)
    return total, task_lib.Tracked(metrics, tracked) if tracked else metrics

  def sliced(self) -> deterministic.Sliced | None:
    """Returns the loss in two parts, if the run is deterministic."""
    if not self.loss_config.deterministic:
      return None

    def objective(params, output, pairs):
      output = self._with_scalars(params, output)
      return self._objective(output, pairs, axis_names=None)

    return deterministic.Sliced(
      divide=lambda batch: (batch._replace(pairs=None), batch.pairs),
      encode=self._encode,
      objective=objective,
      num_slices=self.loss_config.deterministic,
    )

  def _objective(self, output, pairs, *, axis_names=mesh_lib.BATCH_AXES):
    """Computes (loss, metrics) of the outputs of a whole batch."""
    config = self.loss_config
    total, metrics = jnp.zeros(()), {}
    share = pairs.action_share
    if config.contrastive_weight:
      # A caption is only half true of a clip across a boundary: no pair.
      is_crossing = (share > 0) & (share < 1)
      value, metrics = contrastive_sharded.contrastive_loss(
        output.video,
        output.text,
        pairs._replace(valid=pairs.valid & ~is_crossing),
        output.logit_scale,
        rules=contrastive.PRESETS[config.preset],
        objective=config.objective,
        logit_bias=output.logit_bias,
        implementation=config.implementation,
        axis_names=axis_names,
      )
      metrics = dict(metrics) | {
        "contrastive": value,
        "logit_scale": output.logit_scale,
      }
      total = total + config.contrastive_weight * value
    if config.class_weight:
      labelled = pairs.valid & pairs.is_action & (pairs.class_id >= 0)
      value, accuracy = _cross_entropy(
        output.class_logits,
        jax.nn.one_hot(pairs.class_id, output.class_logits.shape[-1]),
        labelled * share,
      )
      metrics |= {"class": value, "class_accuracy": accuracy}
      total = total + config.class_weight * value
    if config.region_weight:
      value, accuracy = _cross_entropy(
        output.region_logits,
        jnp.stack([1 - share, share], axis=-1),
        pairs.valid.astype(jnp.float32),
      )
      metrics |= {"region": value, "region_accuracy": accuracy}
      total = total + config.region_weight * value
    return total, metrics

  def _encode(
    self, params, part: types.ClipBatch
  ) -> dual_encoder.DualEncoderOutput:
    """Returns the per-item outputs of the model."""
    # Flax adds the state that `mutable` would return.
    output = cast(
      dual_encoder.DualEncoderOutput,
      self.model.apply(params, part.frames, part.tokens, part.token_mask),
    )
    return output._replace(logit_scale=None, logit_bias=None)

  def _with_scalars(self, params, output):
    scale, bias = self.model.apply(params, method="logit_scalars")
    return output._replace(logit_scale=scale, logit_bias=bias)

  def _in_microbatches(self, params, batch: types.ClipBatch):
    """Returns the model's output within the memory of one microbatch."""
    output = microbatches.encode_in_slices(
      self._encode,
      params,
      batch._replace(pairs=None),
      num_microbatches=self.loss_config.num_microbatches,
    )
    return self._with_scalars(params, output)

  def predict(self, params, batch: types.ClipBatch):
    output = self._encode(params, batch)
    return {"video": output.video, "text": output.text}


def _cross_entropy(logits, targets, weights):
  """Computes mean cross-entropy and accuracy; 0 if all weights are 0.

  Args:
    logits: float32 (b, c).
    targets: float32 (b, c), probabilities.
    weights: float32 (b,), at least 0.
  """
  total = weights.sum()
  total = jnp.where(total > 0, total, 1.0)
  losses = -(targets * jax.nn.log_softmax(logits)).sum(axis=-1)
  hits = logits.argmax(axis=-1) == targets.argmax(axis=-1)
  return (losses * weights).sum() / total, (hits * weights).sum() / total
