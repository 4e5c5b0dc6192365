"""Train steps as other projects write them, re-stated small.

Blocks and dtypes are those of the projects' public code; sizes, batch, text
tower and optimiser (moments in float32) are ours. All take float32
clips, as their pipelines deliver them, and train both towers with open_clip's
loss.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec

from clap_jax.models import variants
from tests.benchmarks import contrastive_peers


class Mlp(nn.Module):
  hidden: int
  dtype: Any

  @nn.compact
  def __call__(self, x):
    y = nn.gelu(nn.Dense(self.hidden, dtype=self.dtype)(x))
    return nn.Dense(x.shape[-1], dtype=self.dtype)(y)


class Block(nn.Module):
  """Attention over each of `axes` of (b, *axes, d) in turn, then an MLP.

  With one axis it is big_vision's Encoder1DBlock, with space and time scenic's
  EncoderFactorizedSelfAttentionBlock.
  """

  size: variants.TransformerSize
  axes: tuple[int, ...]
  dtype: Any
  norm_dtype: Any  # None, as in big_vision: that of the residual stream

  @nn.compact
  def __call__(self, x, mask=None):
    norm = lambda: nn.LayerNorm(dtype=self.norm_dtype)  # noqa: E731
    for axis in self.axes:
      y = jnp.moveaxis(norm()(x), axis, -2)
      y = nn.MultiHeadDotProductAttention(
        self.size.num_heads, dtype=self.dtype
      )(y, y, mask=mask)
      x = x + jnp.moveaxis(y, -2, axis)
    return x + Mlp(self.size.mlp_width, self.dtype)(norm()(x))


class Encoder(nn.Module):
  """Blocks in a scan that keeps their inputs, as big_vision's can be.

  Scenic's loop in Python keeps all activations. Of a ViT-B with eight clips of
  16 frames at 224 px they do not fit the chip, so that it is a scan here, too.
  """

  size: variants.TransformerSize
  axes: tuple[int, ...] = (-2,)
  dtype: Any = jnp.bfloat16
  norm_dtype: Any = None

  @nn.compact
  def __call__(self, x, mask=None):
    block = nn.remat(
      Block,
      prevent_cse=False,
      policy=jax.checkpoint_policies.nothing_saveable,
    )
    scanned = nn.scan(
      lambda module, carry, _: (module(carry, mask), None),
      variable_axes={"params": 0},
      split_rngs={"params": True},
      length=self.size.depth,
    )
    module = block(self.size, self.axes, self.dtype, self.norm_dtype)
    x, _ = scanned(module, x, None)
    return nn.LayerNorm(dtype=self.norm_dtype)(x)


class BigVisionViT(nn.Module):
  """All tubelets of a clip in one sequence; residual stream in float32."""

  size: variants.TransformerSize
  patch: tuple[int, int, int]
  dtype: Any

  @nn.compact
  def __call__(self, clips, *, train):
    del train
    x = _tubelets(self, clips)
    x = x.reshape(x.shape[0], -1, x.shape[-1])
    init = nn.initializers.normal(0.02)
    x = x + self.param("pos_embedding", init, (1, *x.shape[1:]))
    x = Encoder(self.size, dtype=self.dtype)(x)
    probe = self.param("probe", init, (1, 1, x.shape[-1]))
    probe = jnp.tile(probe, (x.shape[0], 1, 1))
    x = nn.MultiHeadDotProductAttention(self.size.num_heads, dtype=self.dtype)(
      probe, x
    )
    x = x + Mlp(self.size.mlp_width, self.dtype)(nn.LayerNorm()(x))
    return x[:, 0]


class ScenicViViT(nn.Module):
  """ViViT with space and time in every block, or one encoder after the other.

  Attributes:
    factorised: "self_attention", model 3 of the paper, or "encoder", model 2:
      class tokens of the steps in time go through four more blocks.
  """

  size: variants.TransformerSize
  patch: tuple[int, int, int]
  dtype: Any
  factorised: str = "self_attention"

  @nn.compact
  def __call__(self, clips, *, train):
    del train
    x = _tubelets(self, clips)
    batch, steps, _, _, width = x.shape
    x = x.reshape(batch, steps, -1, width)
    dtypes = {"dtype": self.dtype, "norm_dtype": self.dtype}
    if self.factorised == "self_attention":
      x = (x + self._positions("pos", x.shape[1:])).astype(self.dtype)
      x = Encoder(self.size, axes=(2, 1), **dtypes)(x)
      return x.mean(axis=(1, 2)).astype(jnp.float32)
    x = self._with_class_token("space", x.reshape(-1, *x.shape[2:]))
    x = Encoder(self.size, **dtypes, name="space")(x)[:, 0]
    x = self._with_class_token("time", x.reshape(batch, steps, width))
    four = dataclasses.replace(self.size, depth=4)
    x = Encoder(four, **dtypes, name="time")(x)
    return x[:, 0].astype(jnp.float32)

  def _positions(self, name, shape):
    init = nn.initializers.normal(0.02)
    return self.param(f"{name}_embedding", init, (1, *shape))

  def _with_class_token(self, name, x):
    token = self.param(f"{name}_cls", nn.initializers.zeros, x.shape[2:])
    token = jnp.tile(token, (x.shape[0], 1, 1)).astype(x.dtype)
    x = jnp.concatenate([token, x], axis=1)
    return (x + self._positions(f"{name}_pos", x.shape[1:])).astype(self.dtype)


def _tubelets(tower, clips):
  return nn.Conv(
    tower.size.width,
    tower.patch,
    strides=tower.patch,
    padding="VALID",
    dtype=tower.dtype,
  )(clips)


class R2Plus1D(nn.Module):
  """Channels last, three-dimensional convolutions, flax's own batch norm."""

  size: variants.R2Plus1DSize
  dtype: Any

  @nn.compact
  def __call__(self, clips, *, train):
    def norm(x):
      y = nn.BatchNorm(
        use_running_average=not train,
        momentum=self.size.norm_momentum,
        epsilon=self.size.norm_epsilon,
        dtype=self.dtype,
      )
      return y(x)

    def convolve(x, width, sides, strides=(1, 1, 1)):
      return nn.Conv(width, sides, strides, use_bias=False, dtype=self.dtype)(x)

    def factorised(x, mid, width, stride):
      x = convolve(x, mid, (1, 3, 3), (1, stride, stride))
      return convolve(nn.relu(norm(x)), width, (3, 1, 1), (stride, 1, 1))

    def block(x, width, stride):
      first, second = self.size.mid_widths(x.shape[-1], width)
      y = nn.relu(norm(factorised(x, first, width, stride)))
      y = norm(factorised(y, second, width, 1))
      if stride > 1 or x.shape[-1] != width:
        x = norm(convolve(x, width, (1, 1, 1), (stride,) * 3))
      return nn.relu(x + y)

    mid, width = self.size.stem_widths
    x = convolve(clips, mid, (1, 7, 7), (1, 2, 2))
    x = convolve(nn.relu(norm(x)), width, (3, 1, 1))
    x = nn.relu(norm(x))
    for layer, (depth, width) in enumerate(
      zip(self.size.depths, self.size.widths, strict=True)
    ):
      for index in range(depth):
        x = block(x, width, 2 if layer and not index else 1)
    return x.mean(axis=(1, 2, 3)).astype(jnp.float32)


class DualEncoder(nn.Module):
  """A video tower beside a text tower of plain blocks."""

  video: nn.Module
  text_size: variants.TransformerSize
  vocab_size: int
  projection_width: int
  dtype: Any

  @nn.compact
  def __call__(self, clips, tokens, mask):
    x = nn.Embed(self.vocab_size, self.text_size.width)(tokens)
    init = nn.initializers.normal(0.02)
    x = x + self.param("pos_embedding", init, (1, *x.shape[1:]))
    x = Encoder(self.text_size, dtype=self.dtype)(x, mask[:, None, None, :])
    sides = self.video(clips, train=True), x[:, -1]
    video, text = (
      nn.Dense(self.projection_width, use_bias=False)(x) for x in sides
    )
    scale = self.param("t", nn.initializers.constant(2.66), ())
    return _unit(video), _unit(text), jnp.exp(scale)


def _unit(x):
  return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def trace_step(model: DualEncoder, clips, tokens, *, mesh):
  """Traces the step; the arguments are shapes of the global batch."""
  whole = NamedSharding(mesh, PartitionSpec())
  by_batch = NamedSharding(mesh, PartitionSpec(contrastive_peers.AXIS))
  optimizer = optax.chain(
    optax.clip_by_global_norm(1.0), optax.adamw(1e-3, weight_decay=0.05)
  )

  def init(key):
    one = [jnp.zeros((1, *x.shape[1:]), x.dtype) for x in (clips, tokens)]
    variables = model.init(key, *one, jnp.ones(one[1].shape, bool))
    tracked = {k: v for k, v in variables.items() if k != "params"}
    return variables["params"], tracked, optimizer.init(variables["params"])

  def step(state, clips, tokens, mask):
    params, tracked, moments = state

    def loss_of(params):
      output, renewed = model.apply(
        {"params": params, **tracked},
        clips,
        tokens,
        mask,
        mutable=list(tracked),
      )
      return contrastive_peers.open_clip_loss(*output), renewed

    (loss, tracked), gradient = jax.value_and_grad(loss_of, has_aux=True)(
      params
    )
    updates, moments = optimizer.update(gradient, moments, params)
    return (optax.apply_updates(params, updates), tracked, moments), loss

  def placed(tree, sharding):
    return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree
    )

  state = placed(jax.eval_shape(init, jax.random.key(0)), whole)
  mask = jax.ShapeDtypeStruct(tokens.shape, jnp.bool_)
  batch = placed((clips, tokens, mask), by_batch)
  with jax.set_mesh(mesh):
    return jax.jit(step, donate_argnums=0).trace(state, *batch)
