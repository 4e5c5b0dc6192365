"""Defines a two-dimensional moment map with a score per candidate.

Similar to 2D-TAN (AAAI 2020) and VLG-Net (ICCVW 2021): clips of a video,
related by a graph of nearest neighbours, are fused late with the sentence; the
clips of each candidate (start, end) are pooled, by attention or maximum, into
one feature, and the map of these is scored.
"""

import dataclasses
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from clap_jax.models.grounder import Grounder, GrounderOutput, Moments
from clap_jax.models.layers import Dense, sinusoidal_positions
from clap_jax.models.pyramid import Level, Pyramid
from clap_jax.models.temporal_layers import Conv1d
from clap_jax.ops import moment_map as map_ops
from clap_jax.ops.masking import keep, masked_max, masked_mean, masked_softmax

POOLINGS = ("attention", "max")


@dataclasses.dataclass(frozen=True)
class TwoDTanConfig:
  """Hyper-parameters of the moment map.

  Attributes:
    steps_per_clip: number of snippets averaged per clip; the resolution of
      boundaries.
    pooling_counts: number of lengths per level of sparse candidates; see
      `ops.moment_map.sparse_candidates`.
    pooling: "attention" (weights learned per query and clip) or "max" over a
      candidate's clips.
    num_graph_layers: number of graph blocks over clips, before text is fused.
    num_neighbours: number of similar clips that a clip is related to.
    num_map_convs: number of convolutions over neighbouring candidates; 0 scores
      candidates separately.
    map_kernel_size: kernel size of these convolutions; odd.
    refine: whether to shift the ends of each candidate by a regression; the
      published heads do not.
  """

  steps_per_clip: int = 1
  pooling_counts: tuple[int, ...] = (15, 8, 8)
  pooling: str = "attention"
  num_graph_layers: int = 1
  num_neighbours: int = 7
  num_map_convs: int = 0
  map_kernel_size: int = 3
  refine: bool = True

  def __post_init__(self):
    if self.pooling not in POOLINGS:
      raise ValueError(
        f"pooling must be one of {POOLINGS}, got {self.pooling!r}."
      )
    if self.steps_per_clip < 1 or self.num_neighbours < 1:
      raise ValueError(
        "steps_per_clip and num_neighbours must be at least 1, got "
        f"{self.steps_per_clip} and {self.num_neighbours}."
      )
    if self.map_kernel_size % 2 == 0:
      raise ValueError(
        f"map_kernel_size must be odd, got {self.map_kernel_size}."
      )


class TwoDTanPredictions(NamedTuple):
  """Predictions for c candidates of the map and q queries."""

  logits: jax.Array  # float32 (q, c)
  shifts: jax.Array  # float32 (q, c, 2), grid units, of both ends
  candidates: jax.Array  # float32 (c, 2), grid units
  mask: jax.Array  # bool (q, c): the candidate is in the video


class GraphBlock(nn.Module):
  """Relates each clip to its neighbours in time and in feature space.

  The semantic path concatenates the clip with the mean of the most similar
  clips of the video, weighted by a softmax of their similarity; the ordering
  path is a convolution of three clips; both are added to the input.
  """

  num_neighbours: int

  @nn.compact
  def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:  # (b, n, d)
    width = x.shape[-1]
    y = nn.LayerNorm(name="norm")(x)
    similarity = jnp.einsum("bnd,bmd->bnm", y, y)
    similarity = similarity / width**0.5
    allowed = mask[:, None, :] & ~jnp.eye(x.shape[1], dtype=bool)
    lowest = jnp.finfo(jnp.float32).min
    count = min(self.num_neighbours, x.shape[1])
    best, index = jax.lax.top_k(jnp.where(allowed, similarity, lowest), count)
    weights = masked_softmax(best, best > lowest, axis=-1)  # (b, n, k)
    neighbours = jax.vmap(lambda clips, i: clips[i])(keep(y, mask), index)
    mean = jnp.einsum("bnk,bnkd->bnd", weights, neighbours)
    semantic = Dense(width, name="semantic_in")(
      jnp.concatenate([mean, y], axis=-1)
    )
    semantic = Dense(width, name="semantic_out")(nn.relu(semantic))
    ordering = Conv1d(width, name="ordering")(y, mask)
    return keep(x + semantic + nn.relu(ordering), mask)


class TwoDTanGrounder(Grounder):
  """Scores a sparse map of moments from features and token vectors."""

  config: TwoDTanConfig

  def setup(self):
    super().setup()
    config, width = self.config, self.video.width
    self.trunk = Pyramid(dataclasses.replace(self.video, num_levels=1))
    self.graph = [
      GraphBlock(config.num_neighbours) for _ in range(config.num_graph_layers)
    ]
    self.weigh = Dense(1)
    self.place = Dense(width)
    self.pool = Dense(width)
    self.map_convs = [
      nn.Conv(width, (config.map_kernel_size,) * 2)
      for _ in range(config.num_map_convs)
    ]
    self.hidden = Dense(width)
    # Small weights and a low bias: few candidates are good.
    small = nn.initializers.normal(0.01)
    self.out = Dense(
      1, kernel_init=small, bias_init=nn.initializers.constant(-2.0)
    )
    if config.refine:
      self.shift = Dense(2, kernel_init=small)

  def encode_video(
    self,
    features: jax.Array,  # (b, t, d)
    mask: jax.Array,  # bool (b, t)
    *,
    deterministic: bool = True,
  ) -> Level:
    """Encodes each video's clips, related to each other; input of `score`."""
    (level,) = self.trunk(features, mask, deterministic=deterministic)
    x, mask = pool_clips(level, steps_per_clip=self.config.steps_per_clip)
    for block in self.graph:
      x = block(x, mask)
    return Level(x, mask)

  def score(
    self,
    encoded: Level,  # of b videos
    query: jax.Array,  # (q, l, e)
    query_mask: jax.Array,  # bool (q, l)
    *,
    video_of_query: jax.Array | None = None,
    deterministic: bool = True,
  ) -> GrounderOutput:
    """Scores all candidates; see `PyramidGrounder.score`."""
    config = self.config
    fused = self.late_fusion(
      encoded,
      query,
      query_mask,
      video_of_query=video_of_query,
      deterministic=deterministic,
    )
    candidates = map_ops.sparse_candidates(
      fused.mask.shape[1], pooling_counts=config.pooling_counts
    )
    mask = fused.mask[:, candidates[:, 1]]
    x = self._pooled(fused, candidates) + self._places(fused, candidates)
    x = nn.relu(x)
    if config.num_map_convs:
      x = self._convolved(x, mask, candidates)
    x = nn.relu(self.hidden(x))
    segments = jnp.asarray(
      map_ops.candidate_segments(
        candidates, steps_per_clip=config.steps_per_clip
      )
    )
    shifts = jnp.zeros((*x.shape[:-1], 2))
    if config.refine:
      # At most half the candidate's length, so that its ends keep their order.
      length = segments[:, 1:] - segments[:, :1]
      shifts = 0.49 * length * jnp.tanh(self.shift(x))
    predictions = TwoDTanPredictions(
      self.out(x)[..., 0], shifts, segments, mask
    )
    output = self._output(
      map_moments(predictions),
      predictions,
      fused=fused,
      num_steps=fused.mask.shape[1],
    )
    saliency = output.saliency_logits  # of clips
    return output._replace(
      saliency_logits=jnp.repeat(saliency, config.steps_per_clip, axis=-1)
    )

  def _pooled(self, fused: Level, candidates) -> jax.Array:  # (q, c, d)
    """Pools each candidate's clips into one feature."""
    clip = np.arange(fused.mask.shape[1])
    inside = (clip >= candidates[:, :1]) & (clip <= candidates[:, 1:])
    x = fused.features
    if self.config.pooling == "max":
      # One candidate at a time: all at once would hold (q, c, n, d).
      pooled = jax.lax.map(
        lambda own: masked_max(
          x, (fused.mask & own)[..., None], axis=1, empty=0.0
        ),
        jnp.asarray(inside),
        batch_size=64,
      )
      return self.pool(jnp.swapaxes(pooled, 0, 1))
    logits = self.weigh(x)[..., 0]  # (q, n)
    weights = masked_softmax(
      jnp.broadcast_to(logits[:, None], (x.shape[0], *inside.shape)),
      inside & fused.mask[:, None],
      axis=-1,
    )
    return self.pool(jnp.einsum("qcn,qnd->qcd", weights, x))

  def _places(self, fused: Level, candidates) -> jax.Array:  # (c, d)
    """Returns codes of the first clip and of the length."""
    num_clips, width = fused.mask.shape[1], fused.features.shape[-1]
    codes = sinusoidal_positions(num_clips, width)
    length = candidates[:, 1] - candidates[:, 0]
    code = jnp.concatenate([codes[candidates[:, 0]], codes[length]], axis=-1)
    return self.place(code)

  def _convolved(self, x, mask, candidates) -> jax.Array:  # (q, c, d)
    """Applies convolutions over the map, whose empty cells are zero."""
    num_clips = int(candidates[:, 1].max()) + 1
    at = (slice(None), candidates[:, 0], candidates[:, 1])
    for conv in self.map_convs:
      grid = jnp.zeros((x.shape[0], num_clips, num_clips, x.shape[-1]), x.dtype)
      grid = conv(grid.at[at].set(keep(x, mask)))
      x = x + nn.relu(grid[at])
    return x


def pool_clips(
  level: Level, *, steps_per_clip: int
) -> tuple[jax.Array, jax.Array]:
  """Averages successive snippets: (b, t, d) -> (b, t / steps_per_clip, d).

  A clip is valid if any of its snippets is.

  Raises:
    ValueError: t is not a multiple of `steps_per_clip`.
  """
  x, mask = level
  if x.shape[1] % steps_per_clip:
    raise ValueError(
      f"{x.shape[1]} snippets are not a multiple of steps_per_clip "
      f"{steps_per_clip}; choose max_length accordingly."
    )
  x = x.reshape(x.shape[0], -1, steps_per_clip, x.shape[-1])
  mask = mask.reshape(mask.shape[0], -1, steps_per_clip)
  return masked_mean(x, mask[..., None], axis=2), jnp.any(mask, axis=-1)


def map_moments(predictions: TwoDTanPredictions) -> Moments:
  """Returns the candidates with shifted ends."""
  return Moments(
    predictions.candidates[None] + predictions.shifts,
    predictions.logits,
    predictions.mask,
  )
