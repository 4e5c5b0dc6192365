"""Both forms of a factorised convolution against loops and each other."""

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from clap_jax.ops import convolution

CASES = [
  ((1, 3, 3), (1, 1, 1)),
  ((1, 3, 3), (1, 2, 2)),
  ((1, 7, 7), (1, 2, 2)),
  ((3, 1, 1), (1, 1, 1)),
  ((3, 1, 1), (2, 1, 1)),
  ((1, 1, 1), (2, 2, 2)),
]


def case(sides, seed=0):
  rng = np.random.default_rng(seed)
  x = rng.normal(size=(2, 5, 6, 7, 3)).astype(np.float32)
  kernel = rng.normal(size=(*sides, 3, 4)).astype(np.float32)
  return x, kernel


def by_loops(x, kernel, strides):
  half = [side // 2 for side in kernel.shape[:3]]
  padded = np.pad(x, [(0, 0), *((h, h) for h in half), (0, 0)])
  shape = [-(-n // s) for n, s in zip(x.shape[1:4], strides, strict=True)]
  result = np.zeros((x.shape[0], *shape, kernel.shape[-1]))
  for place in np.ndindex(*shape):
    corner = [p * s for p, s in zip(place, strides, strict=True)]
    window = padded[
      :,
      corner[0] : corner[0] + kernel.shape[0],
      corner[1] : corner[1] + kernel.shape[1],
      corner[2] : corner[2] + kernel.shape[2],
    ]
    result[:, *place] = np.einsum("btyxi,tyxio->bo", window, kernel)
  return result


@pytest.fixture(params=[420, 84, 14, 1])
def tile_rows(request, monkeypatch):
  """All of `case` in one product, some frames, some rows, one row."""
  monkeypatch.setattr(convolution, "TILE_ROWS", request.param)


@pytest.mark.usefixtures("tile_rows")
@pytest.mark.parametrize(("sides", "strides"), CASES)
def test_both_forms_are_the_sum_over_the_window(sides, strides):
  x, kernel = case(sides)
  expected = by_loops(x, kernel, strides)
  for form in (convolution.as_product, convolution.as_convolution):
    got = form(x, kernel, strides=strides)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)
  np.testing.assert_allclose(
    convolution.convolve(x, kernel, strides), expected, rtol=1e-4, atol=1e-4
  )


@pytest.mark.usefixtures("tile_rows")
@pytest.mark.parametrize(("sides", "strides"), CASES)
def test_gradients_are_those_of_the_convolution(sides, strides):
  x, kernel = case(sides)

  def loss(function):
    return lambda x, kernel: (function(x, kernel) ** 2).sum()

  got = jax.grad(
    loss(lambda x, k: convolution.convolve(x, k, strides)), argnums=(0, 1)
  )(x, kernel)
  expected = jax.grad(
    loss(lambda x, k: convolution.as_convolution(x, k, strides=strides)),
    argnums=(0, 1),
  )(x, kernel)
  for a, b in zip(got, expected, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-2)


def test_bfloat16_loses_nothing_over_many_tiles(monkeypatch):
  monkeypatch.setattr(convolution, "TILE_ROWS", 1)
  x = jnp.ones((1, 8, 64, 8, 1), jnp.bfloat16)  # 512 tiles of 8 ones

  def loss(kernel):
    y = convolution.convolve(x, kernel, (1, 1, 1))
    return y.astype(jnp.float32).sum()

  by_kernel = jax.grad(loss)(jnp.ones((1, 3, 3, 1, 1), jnp.bfloat16))
  assert by_kernel[0, 1, 1, 0, 0] == x.size


def test_products_never_gather_the_whole_clip():
  """What makes a tower fit and run fast where memory is slow."""
  x = jax.ShapeDtypeStruct((2, 16, 56, 56, 16), np.float32)
  kernel = jax.ShapeDtypeStruct((1, 3, 3, 16, 16), np.float32)

  def loss(x, kernel):
    return (convolution.convolve(x, kernel, (1, 1, 1)) ** 2).sum()

  compiled = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(x, kernel).compile()
  gathered_bytes = 9 * x.size * 4
  assert compiled.memory_analysis().temp_size_in_bytes < gathered_bytes / 2


@pytest.mark.usefixtures("tile_rows")
def test_devices_keep_their_clips():
  """Tiles are cut along axes that no mesh cuts: nothing is sent forward."""
  mesh = jax.make_mesh((2,), ("data",), devices=jax.devices()[:2])
  split = jax.NamedSharding(mesh, jax.P("data"))
  x, kernel = case((1, 3, 3))
  forward = jax.jit(
    lambda x, k: convolution.as_product(x, k, strides=(1, 1, 1)),
    in_shardings=(split, jax.NamedSharding(mesh, jax.P())),
    out_shardings=split,
  )
  text = forward.lower(x, kernel).compile().as_text()
  assert "all-gather" not in text and "all-reduce" not in text
  np.testing.assert_allclose(
    forward(x, kernel), by_loops(x, kernel, (1, 1, 1)), rtol=1e-4, atol=1e-4
  )


@pytest.mark.usefixtures("tile_rows")
def test_a_program_exported_for_any_batch():
  x, kernel = case((1, 3, 3))
  function = jax.jit(lambda x: convolution.convolve(x, kernel, (1, 1, 1)))
  (batch,) = jax.export.symbolic_shape("b")
  shape = jax.ShapeDtypeStruct((batch, *x.shape[1:]), x.dtype)
  exported = jax.export.export(function)(shape)
  np.testing.assert_allclose(exported.call(x), function(x), rtol=1e-5)


def test_the_platform_decides_the_form():
  """Lowered on this machine for another one, it has that one's form."""
  x, kernel = case((1, 3, 3))
  traced = jax.jit(lambda x, k: convolution.convolve(x, k, (1, 1, 1))).trace(
    x, kernel
  )
  forms = {
    platform: "stablehlo.convolution"
    in traced.lower(lowering_platforms=(platform,)).as_text()
    for platform in ("cpu", "tpu")
  }
  assert forms == {"cpu": False, "tpu": True}


@pytest.mark.parametrize("sides", [(3, 3, 3), (1, 2, 2), (3, 1, 3)])
def test_other_kernels_are_refused(sides):
  x, kernel = case(sides)
  with pytest.raises(ValueError, match="odd sides"):
    convolution.convolve(x, kernel, (1, 1, 1))
