"""Defines small layers shared by towers and heads."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from clap_jax.models import partitioning


def flat_product(
  x: jax.Array, kernel: jax.Array, bias: jax.Array | None = None, *, dtype: Any
) -> jax.Array:
  """Computes (*b, in) times (in, out) plus (out,) as a product of matrices.

  On a CPU, XLA's backward pass of a batched product takes about twice the time
  of a flat one; on an accelerator both compile to the same program.
  """
  y = x.reshape(-1, x.shape[-1]).astype(dtype) @ kernel.astype(dtype)
  if bias is not None:
    y = y + bias.astype(dtype)
  return y.reshape(*x.shape[:-1], -1)


class Dense(nn.Module):
  """Linear layer computed by `flat_product`.

  Attributes:
    features: output width.
    use_bias: whether to add a bias.
    kernel_init: initializer of the (in, out) kernel.
    dtype: computation dtype; parameters are float32.
  """

  features: int
  use_bias: bool = True
  kernel_init: Any = nn.initializers.lecun_normal()
  bias_init: Any = nn.initializers.zeros_init()
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:  # (*b, in) -> (*b, out)
    shape = (x.shape[-1], self.features)
    kernel = self.param("kernel", self.kernel_init, shape)
    bias = None
    if self.use_bias:
      bias = self.param("bias", self.bias_init, (self.features,))
    return flat_product(x, kernel, bias, dtype=self.dtype)


# The two forms of GELU differ by up to 5e-4: imported weights need theirs.
ACTIVATIONS = {
  "gelu": lambda x: jax.nn.gelu(x, approximate=False),
  "gelu_tanh": jax.nn.gelu,
  "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
}


class MlpBlock(nn.Module):
  """Dense, an activation, Dense: (*b, d) -> (*b, d)."""

  hidden: int
  dropout_rate: float = 0.0
  activation: str = "gelu_tanh"  # a key of ACTIVATIONS
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, *, deterministic: bool = True) -> jax.Array:
    y = Dense(self.hidden, dtype=self.dtype, name="up")(x)
    y = partitioning.constrain(y, batch=0, hidden=-1)
    y = ACTIVATIONS[self.activation](y)
    y = nn.Dropout(self.dropout_rate)(y, deterministic=deterministic)
    return Dense(x.shape[-1], dtype=self.dtype, name="down")(y)


class Attention(nn.Module):
  """Multi-head attention over the axis before the last.

  Keys outside `key_mask` get no weight; a query whose keys are all masked
  returns zeros before the output projection.

  Attributes:
    num_heads: must divide the query's width.
    causal: whether queries and keys are one sequence in which query i sees keys
      0 to i.
    logit_cap: bound on the logits, by tanh; 0 for none.
    attention: a key of ATTENTIONS; the result is the same.
    query_chunk: queries per chunk with "chunked".
    dtype: computation dtype; the softmax is float32.
  """

  num_heads: int
  causal: bool = False
  logit_cap: float = 0.0
  attention: str = "whole"
  query_chunk: int = 0
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self,
    query: jax.Array,  # (*b, q, d)
    key_value: jax.Array,  # (*b, k, d)
    key_mask: jax.Array | None = None,  # bool (*b, k)
  ) -> jax.Array:  # (*b, q, d)
    width = query.shape[-1]
    if width % self.num_heads:
      raise ValueError(
        f"num_heads must divide the width: got num_heads={self.num_heads}, "
        f"width={width}."
      )
    head_width = width // self.num_heads

    def heads(name, x):  # (*b, n, d) -> (*b, h, n, d / h)
      y = Dense(width, dtype=self.dtype, name=name)(x)
      y = y.reshape(*x.shape[:-1], self.num_heads, head_width)
      y = jnp.swapaxes(y, -2, -3)
      return partitioning.constrain(y, batch=0, heads=-3)

    q, k, v = heads("q", query), heads("k", key_value), heads("v", key_value)
    valid = None if key_mask is None else key_mask[..., None, None, :]
    if self.causal:
      order = jnp.tri(query.shape[-2], key_value.shape[-2], dtype=bool)
      valid = order if valid is None else valid & order
    y = ATTENTIONS[self.attention](
      q,
      k,
      v,
      valid,
      query_chunk=self.query_chunk,
      logit_cap=self.logit_cap,
    )
    y = jnp.swapaxes(y, -2, -3).reshape(*query.shape[:-1], width)
    return Dense(width, dtype=self.dtype, name="out")(y)


def attend_whole(q, k, v, valid, *, query_chunk=0, logit_cap=0.0):
  """Computes softmax(q k^T / sqrt(d)) v; 0 for queries without keys.

  Args:
    q: (*b, h, q, d).
    k: (*b, h, k, d).
    v: (*b, h, k, d).
    valid: bool, broadcast to (*b, h, q, k); None for all True.
    query_chunk: ignored.
    logit_cap: bound on the logits, by tanh; 0 for none.
  """
  del query_chunk
  logits = jnp.einsum("...qd,...kd->...qk", q, k).astype(jnp.float32)
  logits = logits * q.shape[-1] ** -0.5
  if logit_cap:
    logits = logit_cap * jnp.tanh(logits / logit_cap)
  if valid is None:
    weights = jax.nn.softmax(logits, axis=-1)
  else:
    logits = jnp.where(valid, logits, -1e30)
    weights = jax.nn.softmax(logits, axis=-1) * valid
  return jnp.einsum("...qk,...kd->...qd", weights.astype(v.dtype), v)


def attend_chunked(q, k, v, valid, *, query_chunk, logit_cap=0.0):
  """Computes `attend_whole` in chunks of queries, recomputed going backward.

  Only one chunk of the weights is in memory.
  """
  num_queries = q.shape[-2]
  if query_chunk < 1:
    raise ValueError(f"query_chunk must be at least 1, got {query_chunk}.")
  num_chunks = -(-num_queries // query_chunk)
  padding = num_chunks * query_chunk - num_queries

  def cut(x):  # (..., q, n) -> (chunks, ..., query_chunk, n)
    x = jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(0, padding), (0, 0)])
    x = x.reshape(*x.shape[:-2], num_chunks, query_chunk, x.shape[-1])
    return jnp.moveaxis(x, -3, 0)

  def attend(chunk):
    queries, mask = chunk
    mask = valid if mask is None else mask
    return attend_whole(queries, k, v, mask, logit_cap=logit_cap)

  each_its_own = valid is not None and valid.shape[-2] > 1
  chunks = (cut(q), cut(valid) if each_its_own else None)
  y = jnp.moveaxis(jax.lax.map(jax.checkpoint(attend), chunks), 0, -3)
  y = y.reshape(*y.shape[:-3], num_chunks * query_chunk, y.shape[-1])
  return y[..., :num_queries, :]


def attend_fused(q, k, v, valid, *, query_chunk=0, logit_cap=0.0):
  """Computes `attend_whole` by jax.nn.dot_product_attention, maybe fused."""
  del query_chunk
  if logit_cap:
    raise ValueError(
      "Fused attention has no bound on its logits, but this tower's is "
      f'{logit_cap}: choose attention "whole" or "chunked".'
    )
  batch = q.shape[:-3]

  def flat(x):  # (*b, h, n, d) -> (b, n, h, d)
    return jnp.swapaxes(x.reshape(-1, *x.shape[-3:]), 1, 2)

  if valid is not None:
    wide = (*batch, 1, q.shape[-2], k.shape[-2])
    valid = jnp.broadcast_to(valid, wide).reshape(-1, *wide[-3:])
  y = jax.nn.dot_product_attention(flat(q), flat(k), flat(v), mask=valid)
  y = jnp.swapaxes(y, 1, 2)
  if valid is not None:  # without keys the weights would be uniform
    y = y * valid.any(axis=-1)[..., None]
  return y.reshape(*batch, *y.shape[-3:])


ATTENTIONS = {
  "whole": attend_whole,
  "chunked": attend_chunked,
  "fused": attend_fused,
}


def sinusoidal_positions(length: int, width: int) -> jax.Array:
  """Returns sine and cosine codes, (length, width) float32; width even.

  Source: Vaswani et al., "Attention Is All You Need", section 3.5.
  """
  if width % 2:
    raise ValueError(f"width must be even, got {width}.")
  frequency = 10_000.0 ** (-jnp.arange(0, width, 2) / width)
  angle = jnp.arange(length)[:, None] * frequency[None, :]
  return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)
