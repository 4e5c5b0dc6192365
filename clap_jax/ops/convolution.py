"""Convolutions over clips, written as each kind of processor likes them.

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

Sides = tuple[int, int, int]  # along time, height, width


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve(x: jax.Array, kernel: jax.Array, strides: Sides) -> jax.Array:
  """Convolution with half a kernel of zeros around the clip.

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
    ValueError: for a kernel that is not factorised or has an even side.
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
  def pull_back(function, x, kernel, cotangent):
    _, vjp = jax.vjp(functools.partial(function, strides=strides), x, kernel)
    return vjp(cotangent)

  return jax.lax.platform_dependent(
    *residuals,
    cotangent,
    cpu=functools.partial(pull_back, as_product),
    default=functools.partial(pull_back, as_convolution),
  )


convolve.defvjp(_convolve_forward, _convolve_backward)


def as_product(x: jax.Array, kernel: jax.Array, *, strides: Sides) -> jax.Array:
  """`convolve` as one matrix product over gathered neighbours."""
  sides = kernel.shape[:3]
  lengths = _output_lengths(x, strides)
  padding = [(side // 2, side // 2) for side in sides]
  padded = jnp.pad(x, [(0, 0), *padding, (0, 0)])
  neighbours = []
  for offset in itertools.product(*(range(side) for side in sides)):
    take = tuple(
      slice(start, start + (length - 1) * stride + 1, stride)
      for start, length, stride in zip(offset, lengths, strides, strict=True)
    )
    neighbours.append(padded[:, *take])
  gathered = (
    neighbours[0] if len(neighbours) == 1 else jnp.concatenate(neighbours, -1)
  )
  columns = gathered.reshape(-1, gathered.shape[-1])
  y = columns @ kernel.reshape(-1, kernel.shape[-1])
  return y.reshape(x.shape[0], *lengths, kernel.shape[-1])


def as_convolution(
  x: jax.Array, kernel: jax.Array, *, strides: Sides
) -> jax.Array:
  """`convolve` as a two-dimensional convolution over space or over time.

  Three-dimensional ones are slower wherever they were measured.
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
