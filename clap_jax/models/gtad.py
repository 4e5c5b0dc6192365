"""Defines the sub-graph localizer (G-TAD, CVPR 2020) and BMN's network (2019).

Snippets of a video are nodes of a graph with edges to neighbours in time and in
feature space; BMN's network convolves them instead. All proposals are sampled
from them at once, and a head predicts how well each overlaps an action. The
code follows the papers' descriptions.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from clap_jax.models.layers import Dense
from clap_jax.models.temporal_layers import window
from clap_jax.ops import proposals as proposal_ops
from clap_jax.ops.masking import keep
from clap_jax.ops.proposals import ProposalPredictions

_NETWORKS = ("graph", "convolution")
_CONV_GROUPS = 4  # for BMN's convolutions and the first one of both networks


@dataclasses.dataclass(frozen=True)
class GtadConfig:
  """Hyper-parameters of the model.

  Attributes:
    network: "graph" (G-TAD) or "convolution" (BMN), which has no context and
      samples proposals from end to end.
    width: channels of the graph; a multiple of 4.
    num_groups: groups of the grouped layers; must divide the bottleneck, half
      the width.
    num_neighbours: number of neighbours in feature space, including the node
      itself.
    max_duration: length of the longest proposal, in snippets.
    num_bins: number of positions at which a proposal is sampled.
    num_context_bins: number of positions at which its neighbours' mean is
      sampled; 0 without a graph.
    extension: extension of a proposal to each side, as a share of its length.
    map_widths: channels of the layers over the proposal map.
    map_kernel_size: kernel size of the layers over the map after the first two;
      odd.
    has_classes: whether snippets have class scores; without them all segments
      have one class, and an external classifier names it.
    num_class_blocks: number of graph blocks before the class scores.
    prior_probability: probability of each class and overlap at the first step,
      in (0, 1); with 0.5 initial biases are 0, as in public code.
    dropout_rate: dropout rate before the class scores and the first map layer.
  """

  network: str = "graph"
  width: int = 256
  num_groups: int = 32
  num_neighbours: int = 3
  max_duration: int = 100
  num_bins: int = 32
  num_context_bins: int = 4
  extension: float = 0.5
  map_widths: tuple[int, ...] = (512, 128, 128, 128)
  map_kernel_size: int = 1
  has_classes: bool = True
  num_class_blocks: int = 1
  prior_probability: float = 0.1
  dropout_rate: float = 0.0

  def __post_init__(self):
    # JSON has no tuples.
    object.__setattr__(self, "map_widths", tuple(self.map_widths))
    if self.width % 4 or (self.width // 2) % self.num_groups:
      raise ValueError(
        f"width {self.width} must be a multiple of 4 and num_groups "
        f"{self.num_groups} divide its half."
      )
    if len(self.map_widths) < 2 or self.map_kernel_size % 2 == 0:
      raise ValueError(
        f"map_widths needs two or more layers, got {self.map_widths}, and "
        f"map_kernel_size must be odd, got {self.map_kernel_size}."
      )
    sizes = (self.num_neighbours, self.max_duration, self.num_bins)
    if min(sizes) < 1 or not 0 < self.prior_probability < 1:
      raise ValueError(
        "num_neighbours, max_duration and num_bins must be at least 1, got "
        f"{sizes}, and prior_probability in (0, 1), got "
        f"{self.prior_probability}."
      )
    if self.network not in _NETWORKS:
      raise ValueError(
        f"network must be one of {', '.join(_NETWORKS)}, got {self.network!r}."
      )
    if (self.num_context_bins > 0) != (self.network == "graph"):
      raise ValueError(
        f"num_context_bins must be above 0 with the network graph and 0 with "
        f"the other, got {self.num_context_bins} with {self.network!r}."
      )


class GroupedConv1d(nn.Module):
  """Grouped convolution over time."""

  features: int
  num_groups: int
  kernel_size: int = 3

  @nn.compact
  def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
    size, groups, width = self.kernel_size, self.num_groups, x.shape[-1]
    shape = (size * width // groups, groups, self.features // groups)
    init = nn.initializers.lecun_normal(in_axis=0, out_axis=2, batch_axis=1)
    kernel = self.param("kernel", init, shape)
    bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
    views = jnp.stack(window(keep(x, mask), size=size, stride=1), axis=-2)
    views = views.reshape(*x.shape[:-1], size, groups, width // groups)
    views = jnp.moveaxis(views, -2, -3).reshape(*x.shape[:-1], groups, shape[0])
    y = jnp.einsum("btgi,igo->btgo", views, kernel)
    y = y.reshape(*x.shape[:-1], self.features) + bias
    return keep(y, mask)


def nearest_snippets(
  x: jax.Array, mask: jax.Array, *, count: int
) -> jax.Array:  # int32 (b, t, count)
  """Finds the nearest valid snippets of x (b, t, d) by squared distance."""
  squares = jnp.sum(x**2, axis=-1)
  product = jnp.einsum("btd,bsd->bts", x, x)
  distance = squares[:, :, None] - 2 * product + squares[:, None]
  distance = jnp.where(mask[:, None], distance, jnp.inf)
  _, index = jax.lax.top_k(-jax.lax.stop_gradient(distance), count)
  return index


def gather_snippets(x: jax.Array, index: jax.Array) -> jax.Array:
  """Gathers steps of x (b, t, d) at index (b, t, k): (b, t, k, d)."""
  return jax.vmap(lambda one, i: one[i])(x, index)


class GraphBlock(nn.Module):
  """Sum of time path, feature-space path and identity (GCNeXt)."""

  config: GtadConfig

  @nn.compact
  def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
    width, groups = x.shape[-1], self.config.num_groups
    narrow = width // 2

    def dense(features, name):
      return Dense(features, name=name)

    y = nn.relu(dense(narrow, "time_in")(x))
    y = GroupedConv1d(narrow, groups, name="time_mix")(y, mask)
    in_time = dense(width, "time_out")(nn.relu(y))

    count = min(self.config.num_neighbours, x.shape[1])
    near = gather_snippets(x, nearest_snippets(x, mask, count=count))
    itself = jnp.broadcast_to(x[:, :, None], near.shape)
    y = nn.relu(
      dense(narrow, "space_in")(jnp.concatenate([near, itself], axis=-1))
    )
    shape = y.shape
    flat = y.reshape(shape[0], -1, narrow)
    y = GroupedConv1d(narrow, groups, kernel_size=1, name="space_mix")(
      flat, jnp.ones(flat.shape[:2], bool)
    ).reshape(shape)
    in_space = jnp.max(dense(width, "space_out")(nn.relu(y)), axis=2)
    return keep(nn.relu(in_time + x + in_space), mask)


class MapHead(nn.Module):
  """Predicts two confidences for every proposal from the snippets.

  The first layer is linear, so that it is applied to snippets before they are
  sampled: no array of proposals x bins x channels exists.
  """

  config: GtadConfig

  @nn.compact
  def __call__(
    self,
    x: jax.Array,  # (b, t, d)
    context: jax.Array | None,  # (b, t, d); None without context bins
    proposals: proposal_ops.Proposals,
    *,
    deterministic: bool,
  ) -> jax.Array:  # float32 (b, m, 2)
    config, num_steps = self.config, x.shape[1]
    spans = proposal_ops.read_spans(proposals, share=config.extension)
    if self._has_grid:  # value that public code samples outside of the sequence
      spans = np.concatenate([spans, np.zeros_like(spans[:1])])
    first, second, *others = config.map_widths
    y, sources = 0.0, [("own", x, config.num_bins)]
    if context is not None:
      sources.append(("context", context, config.num_context_bins))
    for name, source, bins in sources:
      weights = self._weights(spans, num_steps=num_steps, num_bins=bins)
      parts = Dense(
        bins * first,
        use_bias=False,
        # The layer's fan-in counts all bins.
        kernel_init=nn.initializers.normal(
          (x.shape[-1] * (config.num_bins + config.num_context_bins)) ** -0.5
        ),
        name=f"read_{name}",
      )(source)
      parts = parts.reshape(*x.shape[:2], bins, first)
      parts = jnp.moveaxis(parts, 2, 1).reshape(len(x), -1, first)
      y = y + jnp.einsum("mk,bkf->bmf", weights, parts)
    bias = self.param("read_bias", nn.initializers.zeros_init(), (first,))
    y = nn.relu(y + bias)
    y = nn.Dropout(config.dropout_rate, deterministic=deterministic)(y)
    y = nn.relu(Dense(second, name="map_1")(y))
    row = proposals.duration - 1
    if self._has_grid:
      shape = (len(y), row.max() + 1, num_steps, second)
      beyond = jnp.broadcast_to(y[:, -1, None, None], shape)
      y = beyond.at[:, row, proposals.start].set(y[:, :-1])
    for i, width in enumerate(others, start=2):
      y = nn.relu(self._layer(width, name=f"map_{i}")(y))
    if self._has_grid:
      y = y[:, row, proposals.start]
    prior = config.prior_probability
    return Dense(
      2,
      kernel_init=nn.initializers.normal(0.01),
      bias_init=nn.initializers.constant(np.log(prior / (1 - prior))),
      name="out",
    )(y)

  def _weights(self, spans, *, num_steps, num_bins):
    """Computes weights (spans, bins * snippets) of snippets in each span."""
    if self.config.network == "graph":
      weights = proposal_ops.align_weights(
        spans, num_steps=num_steps, num_bins=num_bins
      )
    else:
      weights = proposal_ops.sample_weights(
        spans, num_steps=num_steps, num_bins=num_bins
      )
      if self._has_grid:  # nothing is sampled outside of the sequence
        weights = weights.at[-1].set(0.0)
    return weights.reshape(len(spans), -1)

  @property
  def _has_grid(self) -> bool:
    """Returns True if layers see neighbouring proposals."""
    return self.config.map_kernel_size > 1

  def _layer(self, width: int, *, name: str) -> nn.Module:
    size = self.config.map_kernel_size
    if size == 1:
      return Dense(width, name=name)
    return nn.Conv(width, (size, size), name=name)


class GtadLocalizer(nn.Module):
  """Predicts snippets and proposals from features (b, t, d), mask (b, t)."""

  config: GtadConfig
  num_classes: int

  @nn.compact
  def __call__(
    self,
    features: jax.Array,
    mask: jax.Array,
    *,
    deterministic: bool = True,
  ) -> ProposalPredictions:
    config, is_graph = self.config, self.config.network == "graph"

    def block(name):
      if is_graph:
        return GraphBlock(config, name=name)
      return self._conv(name)

    x = keep(features, mask)
    x = self._conv("project")(x, mask)
    x = block("base_1")(x, mask)
    boundary = {}
    for name in ("start", "end"):
      y = block(name)(x, mask)
      boundary[name] = Dense(1, name=f"{name}_out")(y)[..., 0]
    class_logits = None
    if config.has_classes:
      classes = x
      for i in range(config.num_class_blocks):
        classes = block(f"class_{i}")(classes, mask)
      class_logits = self._class_logits(classes, deterministic=deterministic)

    x = (block if is_graph else self._dense_conv)("base_2")(x, mask)
    proposals = proposal_ops.all_proposals(
      x.shape[1], max_duration=config.max_duration
    )
    maps = MapHead(config, name="map_head")(
      x,
      self._context(x, mask) if is_graph else None,
      proposals,
      deterministic=deterministic,
    )
    return ProposalPredictions(
      start_logits=boundary["start"],
      end_logits=boundary["end"],
      class_logits=class_logits,
      regression_logits=maps[..., 0],
      classification_logits=maps[..., 1],
      proposals=proposals,
      # Padding is at the end: the last snippet decides.
      proposal_mask=mask[:, proposals.start + proposals.duration - 1],
      mask=mask,
    )

  def _class_logits(self, x, *, deterministic):
    x = nn.Dropout(self.config.dropout_rate, deterministic=deterministic)(x)
    prior = self.config.prior_probability / 10
    return Dense(
      self.num_classes,
      kernel_init=nn.initializers.normal(0.01),
      bias_init=nn.initializers.constant(np.log(prior / (1 - prior))),
      name="class_out",
    )(x)

  def _context(self, x, mask):
    """Computes the mean of each snippet's neighbours in feature space."""
    count = min(self.config.num_neighbours, x.shape[1])
    near = nearest_snippets(x, mask, count=count)
    return keep(gather_snippets(x, near).mean(axis=2), mask)

  def _conv(self, name: str, *, num_groups: int = _CONV_GROUPS):
    """Applies a convolution to the graph's width, and ReLU."""

    def apply(x, mask):
      # One group if the channels cannot be divided.
      groups = num_groups if x.shape[-1] % num_groups == 0 else 1
      conv = GroupedConv1d(self.config.width, groups, name=name)
      return nn.relu(conv(x, mask))

    return apply

  def _dense_conv(self, name: str):
    return self._conv(name, num_groups=1)
