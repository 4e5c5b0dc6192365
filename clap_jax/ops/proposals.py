"""Defines proposal segments of a grid and their coordinates.

Proposal (s, d) covers the steps s ... s + d - 1, in grid units from s - 0.5 to
s + d - 0.5.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from clap_jax.ops import segments as segment_ops

_SAMPLES_PER_BIN = 3  # of BMN


class Proposals(NamedTuple):
  """All proposals over t steps, shortest first. All (m,)."""

  start: np.ndarray  # int32, first step
  duration: np.ndarray  # int32, steps, 1 ... max_duration


class ProposalPredictions(NamedTuple):
  """Predictions of a proposal head for snippets and proposals."""

  start_logits: jax.Array  # float32 (b, t)
  end_logits: jax.Array  # float32 (b, t)
  class_logits: jax.Array | None  # float32 (b, t, c); None of one class
  regression_logits: jax.Array  # float32 (b, m): how great the IoU is
  classification_logits: jax.Array  # float32 (b, m): whether it is high
  proposals: Proposals
  proposal_mask: jax.Array  # bool (b, m): the proposal ends within the video
  mask: jax.Array  # bool (b, t)


def all_proposals(num_steps: int, *, max_duration: int) -> Proposals:
  """Returns the proposals that end within the grid."""
  longest = min(max_duration, num_steps)
  duration, start = np.divmod(np.arange(longest * num_steps), num_steps)
  duration += 1
  inside = start + duration <= num_steps
  return Proposals(
    start[inside].astype(np.int32), duration[inside].astype(np.int32)
  )


def proposal_segments(proposals: Proposals) -> np.ndarray:  # float32 (m, 2)
  """Converts proposals to segments in grid units."""
  low = proposals.start - 0.5
  return np.stack([low, low + proposals.duration], axis=-1).astype(np.float32)


def read_spans(proposals: Proposals, *, share: float) -> np.ndarray:
  """Returns the sampled spans float32 (m, 2) of proposals in grid units.

  From the middle of the first step to that of the last, longer by `share` of
  the proposal's length to each side. One step more of both ends would be the
  proposal's whole extent; G-TAD's code reads from middle to middle.
  """
  low = proposals.start - share * proposals.duration
  high = proposals.start + proposals.duration - 1 + share * proposals.duration
  return np.stack([low, high], axis=-1).astype(np.float32)


def align_weights(
  segments: np.ndarray, *, num_steps: int, num_bins: int
) -> jax.Array:  # float32 (m, num_bins, num_steps)
  """Computes the weights of steps in each bin of a segment.

  A segment is at least one step long. Each of its equal bins is the mean of
  ceil(length / num_bins) evenly spaced samples, linearly interpolated between
  steps; a sample more than one step before the first or after the last step is
  zero, others beyond the ends are those of the end.

  Source: RoIAlign (He et al., ICCV 2017) in one dimension, as in G-TAD (Xu et
  al., CVPR 2020).
  """
  length = np.maximum(segments[:, 1] - segments[:, 0], 1.0)
  num_samples = np.ceil(length / num_bins - 1e-6)
  most = int(num_samples.max())
  # Computed at run time: as a constant it would enlarge the program.
  start, length, count = jax.lax.optimization_barrier(
    tuple(
      jnp.asarray(values, jnp.float32)[:, None, None]
      for values in (segments[:, 0], length, num_samples)
    )
  )
  bins = jnp.arange(num_bins, dtype=jnp.float32)[None, :, None]
  step = jnp.arange(num_steps, dtype=jnp.float32)[None, None]
  weights = jnp.zeros((), jnp.float32)
  for sample in range(most):
    position = start + (bins + (sample + 0.5) / count) * (length / num_bins)
    seen = (position >= -1) & (position <= num_steps) & (sample < count)
    position = jnp.clip(position, 0, num_steps - 1)
    share = jnp.maximum(1 - jnp.abs(position - step), 0)
    weights = weights + jnp.where(seen, share, 0.0) / count
  return weights


def sample_weights(
  spans: np.ndarray, *, num_steps: int, num_bins: int
) -> jax.Array:  # float32 (m, num_bins, num_steps)
  """Computes the weights of steps in each bin of a span, as in BMN.

  Samples are evenly spaced from end to end, three per bin, linearly
  interpolated. Those less than a step before the first step take its value;
  samples farther out are zero.

  Source: BMN (Lin et al., ICCV 2019), section 3.2, and its public code.
  """
  low, high = spans.astype(np.float64).T
  numbers = np.arange(num_bins * _SAMPLES_PER_BIN)
  gap = (high - low) / max(numbers[-1], 1)
  position = low[:, None] + gap[:, None] * numbers
  # In double precision and in the order of the public code: whether a sample
  # lies at the edge exactly decides whether it counts.
  position = np.where((position > -1) & (position < 0), 0.0, position)
  position = jax.lax.optimization_barrier(
    jnp.asarray(position.reshape(len(spans), num_bins, -1), jnp.float32)
  )
  step = jnp.arange(num_steps, dtype=jnp.float32)
  weights = jnp.zeros(())
  for sample in range(_SAMPLES_PER_BIN):
    away = jnp.abs(position[..., sample, None] - step)
    weights = weights + jnp.maximum(1 - away, 0)
  return weights / _SAMPLES_PER_BIN


def boundary_targets(
  boundaries: jax.Array,  # (n,), grid units
  boundary_mask: jax.Array,  # bool (n,)
  *,
  num_steps: int,
  width: float,
  span_steps: float,
) -> jax.Array:  # (num_steps,), in [0, 1]
  """Computes the share of each step's span that is near a boundary.

  The `width` steps around a boundary are near; the maximum over boundaries is
  used. A span begins half a step before its step and is `span_steps` long.

  Source: BSN (Lin et al., ECCV 2018); spans of two steps in G-TAD and BMN on
  ActivityNet, of one step in G-TAD on THUMOS14.
  """
  step = jnp.arange(num_steps, dtype=jnp.float32)
  # A step's own extent is from step - 0.5 on.
  span = jnp.stack([step - 1, step - 1 + span_steps], axis=-1)[:, None]
  near = jnp.stack([boundaries - width / 2, boundaries + width / 2], axis=-1)
  covered = segment_ops.intersection(span, near[None]) / span_steps  # (t, n)
  return jnp.max(
    jnp.where(boundary_mask[None], covered, 0.0), axis=-1, initial=0.0
  )


def proposal_overlaps(
  proposals: Proposals,
  segments: jax.Array,  # (n, 2), grid units
  segment_mask: jax.Array,  # bool (n,)
) -> jax.Array:  # (m,), in [0, 1]
  """Computes the maximum IoU of each proposal with any segment."""
  overlap = segment_ops.pairwise(
    segment_ops.iou, jnp.asarray(proposal_segments(proposals)), other=segments
  )
  return jnp.max(
    jnp.where(segment_mask[None], overlap, 0.0), axis=-1, initial=0.0
  )


def step_classes(
  segments: jax.Array,  # (n, 2), grid units
  labels: jax.Array,  # int32 (n,)
  segment_mask: jax.Array,  # bool (n,)
  *,
  num_steps: int,
  num_classes: int,
) -> jax.Array:  # (num_steps, c), 0 or 1
  """Computes the classes whose segments hold the middle of each step."""
  step = jnp.arange(num_steps, dtype=jnp.float32)[:, None]
  inside = (step >= segments[None, :, 0]) & (step < segments[None, :, 1])
  inside &= segment_mask[None]
  one_hot = jax.nn.one_hot(labels, num_classes)
  return jnp.minimum(inside.astype(jnp.float32) @ one_hot, 1.0)


def mean_over_proposals(values: jax.Array, proposals: Proposals) -> jax.Array:
  """Averages values (t, c) over the steps of each proposal: (m, c)."""
  total = jnp.concatenate(
    [jnp.zeros_like(values[:1]), jnp.cumsum(values, axis=0)]
  )
  part = total[proposals.start + proposals.duration] - total[proposals.start]
  return part / proposals.duration[:, None].astype(values.dtype)


def boundary_peaks(probability: jax.Array, mask: jax.Array) -> jax.Array:
  """Returns bool (t,), True for steps that may be boundaries.

  These are local maxima, and steps above half of the maximum probability.

  Source: BSN, section 3.3.
  """
  value = jnp.where(mask, probability, -1.0)
  beyond = jnp.full((1,), -1.0, value.dtype)
  before = jnp.concatenate([beyond, value[:-1]])
  after = jnp.concatenate([value[1:], beyond])
  is_peak = (value > before) & (value > after)
  return mask & (is_peak | (value > 0.5 * jnp.max(value)))
