"""Computes convolutions over clips in the fastest form per platform.

XLA's convolutions are the slow part of a convolutional tower on a CPU, where
the same product over gathered neighbours runs several times faster; on an
accelerator the convolution itself is best. Both give one result. Which one runs
is decided when the program is lowered for a platform, so that a program
compiled ahead of time on a CPU for a TPU has the TPU's form.
"""

import functools
import itertools

import jax
import jax.numpy as jnp

Sides = tuple[int, ...]  # along time, height, width

# Rows of one product on a CPU: gathered neighbours that stay in its cache.
TILE_ROWS = 4096

# Name of a convolution's result in policies of jax.checkpoint.
RESULT = "convolution"


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve(x: jax.Array, kernel: jax.Array, strides: Sides) -> jax.Array:
  """Computes a convolution, zero-padded by half a kernel.

  The backward pass keeps the input and the kernel only: the gathered
  neighbours, many times the input, are gathered again.

  Args:
    x: (b, t, height, width, in).
    kernel: (kt, kh, kw, in, out), odd sides; either kt or both of kh and kw
      are 1, as in factorised convolutions.
    strides: output steps along time, height, width.

  Returns:
    (b, t', height', width', out), each side divided by its stride, rounded up.

  Raises:
    ValueError: the kernel is not factorised or has an even side.
  """
  return _forward(x, kernel, strides)


def _forward(x, kernel, strides):
  _check(kernel)
  return jax.lax.platform_dependent(
    x,
    kernel,
    cpu=functools.partial(as_product, strides=strides),
    default=functools.partial(as_convolution, strides=strides),
  )


def _convolve_forward(x, kernel, strides):
  return _forward(x, kernel, strides), (x, kernel)


def _convolve_backward(strides, residuals, cotangent):
  def pull_back(x, kernel, cotangent):
    convolution = functools.partial(as_convolution, strides=strides)
    return _transposed(convolution, x, kernel, cotangent)

  return jax.lax.platform_dependent(
    *residuals,
    cotangent,
    cpu=functools.partial(_pull_back_product, strides=strides),
    default=pull_back,
  )


convolve.defvjp(_convolve_forward, _convolve_backward)


def as_product(x: jax.Array, kernel: jax.Array, *, strides: Sides) -> jax.Array:
  """Computes `convolve` by matrix products over gathered neighbours."""
  padded = _pad(x, kernel)
  lengths = _output_lengths(x, strides)
  tile = _tile(x.shape[0], lengths)

  def add_tile(index, y):
    start, corner = _places(index, lengths, tile, strides)
    window = _window(padded, kernel, corner, tile, strides)
    part = _product(window, kernel, tile, strides)
    return jax.lax.dynamic_update_slice(y, part, (0, *start, 0, 0))

  if tile == lengths:
    return _product(padded, kernel, tile, strides)
  y = jnp.zeros((x.shape[0], *lengths, kernel.shape[-1]), x.dtype)
  return jax.lax.fori_loop(0, _num_tiles(lengths, tile), add_tile, y)


def _pull_back_product(x, kernel, cotangent, *, strides):
  """Computes gradients of `as_product` by `x` and `kernel`, in tiles."""
  padded = _pad(x, kernel)
  lengths = cotangent.shape[1:4]
  tile = _tile(x.shape[0], lengths)
  product = functools.partial(_product, lengths=tile, strides=strides)

  def add_tile(index, gradients):
    by_padded, by_kernel = gradients
    start, corner = _places(index, lengths, tile, strides)
    window = _window(padded, kernel, corner, tile, strides)
    part = jax.lax.dynamic_slice(
      cotangent,
      (0, *start, 0, 0),
      (x.shape[0], *tile, cotangent.shape[-1]),
    )
    # Windows of neighbouring tiles overlap by half a kernel: their gradients
    # are added, not overwritten.
    by_window, more = _transposed(product, window, kernel, part)
    at = (0, *corner, 0, 0)
    by_window += jax.lax.dynamic_slice(by_padded, at, window.shape)
    by_padded = jax.lax.dynamic_update_slice(by_padded, by_window, at)
    return by_padded, by_kernel + more

  if tile == lengths:
    by_padded, by_kernel = _transposed(product, padded, kernel, cotangent)
  else:
    # A sum of many parts: in bfloat16 the last ones would be lost.
    zeros = (jnp.zeros_like(padded), jnp.zeros(kernel.shape, jnp.float32))
    by_padded, by_kernel = jax.lax.fori_loop(
      0, _num_tiles(lengths, tile), add_tile, zeros
    )
  inside = tuple(
    slice(side // 2, side // 2 + length)
    for side, length in zip(kernel.shape[:3], x.shape[1:4], strict=True)
  )
  return by_padded[:, *inside], by_kernel.astype(kernel.dtype)


def _transposed(product, x, kernel, cotangent):
  """Computes gradients of a product that is linear in each factor.

  Unlike `jax.vjp` it leaves no product of the factors themselves behind, which
  the compiler drops, but the count of operations would not.
  """
  by_x = jax.linear_transpose(lambda x: product(x, kernel), x)
  by_kernel = jax.linear_transpose(lambda kernel: product(x, kernel), kernel)
  return *by_x(cotangent), *by_kernel(cotangent)


def _pad(x, kernel):
  margins = [(side // 2, side // 2) for side in kernel.shape[:3]]
  return jnp.pad(x, [(0, 0), *margins, (0, 0)])


def _tile(batch: int, lengths: Sides) -> Sides:
  """Returns the output frames, rows and columns of one product.

  Axes that are cut are those that no mesh cuts. Where a program is exported for
  any batch, that is a symbol, and tiles are those of a single clip.
  """
  frames, height, width = lengths
  batch = batch if isinstance(batch, int) else 1

  def largest_divisor(length, rows_each):
    return max(
      n
      for n in range(1, length + 1)
      if length % n == 0 and (n == 1 or n * rows_each <= TILE_ROWS)
    )

  frames = largest_divisor(frames, batch * height * width)
  return frames, largest_divisor(height, batch * frames * width), width


def _num_tiles(lengths: Sides, tile: Sides) -> int:
  return (lengths[0] // tile[0]) * (lengths[1] // tile[1])


def _places(index, lengths: Sides, tile: Sides, strides: Sides):
  """Returns the start of a tile in the output and in the input."""
  per_frame = lengths[1] // tile[1]
  start = (index // per_frame * tile[0], index % per_frame * tile[1])
  return start, (start[0] * strides[0], start[1] * strides[1])


def _window(padded, kernel, corner, tile: Sides, strides: Sides):
  """Cuts the input of a tile: its own steps and half a kernel around them."""
  sides = tuple(
    (length - 1) * stride + side
    for length, stride, side in zip(
      tile[:2], strides[:2], kernel.shape[:2], strict=True
    )
  )
  batch, *_, width, channels = padded.shape
  return jax.lax.dynamic_slice(
    padded, (0, *corner, 0, 0), (batch, *sides, width, channels)
  )


def _product(padded, kernel, lengths: Sides, strides: Sides):
  """Computes (b, *lengths, out) of an input padded by half a kernel."""
  neighbours = []
  for offset in itertools.product(*(range(side) for side in kernel.shape[:3])):
    take = tuple(
      slice(start, start + (length - 1) * stride + 1, stride)
      for start, length, stride in zip(offset, lengths, strides, strict=True)
    )
    neighbours.append(padded[:, *take])
  gathered = (
    neighbours[0] if len(neighbours) == 1 else jnp.concatenate(neighbours, -1)
  )
  # One product of (positions, taps * channels): XLA on a CPU has fast matrix
  # products, but no fast convolution over three axes.
  columns = gathered.reshape(-1, gathered.shape[-1])
  y = columns @ kernel.reshape(-1, kernel.shape[-1])
  return y.reshape(padded.shape[0], *lengths, kernel.shape[-1])


def as_convolution(
  x: jax.Array, kernel: jax.Array, *, strides: Sides
) -> jax.Array:
  """Computes `convolve` as a 2D convolution over space or over time.

  Three-dimensional convolutions were slower in all measurements.
  """
  batch, frames, height, width, channels = x.shape
  kt, features = kernel.shape[0], kernel.shape[-1]
  lengths = _output_lengths(x, strides)
  if kt == 1:
    x = x[:, :: strides[0]].reshape(-1, height, width, channels)
    window, steps = kernel[0], strides[1:]
  else:
    x = x[:, :, :: strides[1], :: strides[2]]
    x = x.reshape(batch, frames, lengths[1] * lengths[2], channels)
    window, steps = kernel[:, 0], (strides[0], 1)
  y = jax.lax.conv_general_dilated(
    x,
    window,
    window_strides=steps,
    padding=[(side // 2, side // 2) for side in window.shape[:2]],
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )
  return y.reshape(batch, *lengths, features)


def _output_lengths(x, strides) -> tuple[int, ...]:
  return tuple(
    -(-length // stride)
    for length, stride in zip(x.shape[1:4], strides, strict=True)
  )


def _check(kernel) -> None:
  kt, kh, kw = kernel.shape[:3]
  if (kt > 1 and (kh, kw) != (1, 1)) or not all(
    side % 2 for side in (kt, kh, kw)
  ):
    raise ValueError(
      "A factorised kernel has odd sides, along time or in space, not both: "
      f"got {(kt, kh, kw)}."
    )
