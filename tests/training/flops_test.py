"""Operations of known programs, counted against their closed forms."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from clap_jax.training import flops


def counted(function, *shapes):
  arguments = [jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes]
  return flops.count(jax.make_jaxpr(function)(*arguments))


def test_a_batched_product():
  product = lambda a, b: jnp.einsum("bij,bjk->bik", a, b)  # noqa: E731
  assert counted(product, (3, 4, 5), (3, 5, 6)).flops == 2 * 3 * 4 * 5 * 6


def test_a_gradient_costs_two_products_more():
  loss = lambda w, x: jnp.sum((x @ w) ** 2)  # noqa: E731
  one = 2 * 7 * 8 * 9
  both = jax.value_and_grad(loss, argnums=(0, 1))
  assert counted(loss, (8, 9), (7, 8)).flops == one
  assert counted(both, (8, 9), (7, 8)).flops == 3 * one


@pytest.mark.parametrize("remat", [False, True])
def test_a_scan_counts_every_turn_and_remat_its_forward_pass(remat):
  layer = lambda x, w: (jnp.sin(x @ w), None)  # noqa: E731
  body = jax.checkpoint(layer) if remat else layer

  def loss(weights, x):
    return jnp.sum(jax.lax.scan(body, x, weights)[0])

  count = counted(jax.jit(jax.grad(loss)), (5, 8, 8), (4, 8))
  assert count.flops == (4 if remat else 3) * 5 * 2 * 4 * 8 * 8
  assert count.unknown_loops == 0


def convolve(x, kernel, stride):
  return jax.lax.conv_general_dilated(
    x,
    kernel,
    (stride, stride),
    "VALID",
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )


def test_a_strided_convolution_and_its_gradient():
  forward = 2 * (3 * 3 * 4) * (2 * 4 * 4 * 6)  # window x in, outputs
  shapes = (2, 9, 9, 4), (3, 3, 4, 6)
  assert counted(lambda x, k: convolve(x, k, 2), *shapes).flops == forward
  by_kernel = jax.grad(lambda k, x: jnp.sum(convolve(x, k, 2)))
  kernel_only = counted(by_kernel, *reversed(shapes)).flops
  # The gradient of a sum needs no forward pass, but the tracer keeps it.
  assert kernel_only == 2 * forward


def test_grouped_convolutions_count_their_group_only():
  def grouped(x, kernel):
    return jax.lax.conv_general_dilated(
      x,
      kernel,
      (1,),
      "VALID",
      dimension_numbers=("NWC", "WIO", "NWC"),
      feature_group_count=2,
    )

  assert counted(grouped, (1, 6, 8), (3, 4, 10)).flops == 2 * 12 * 4 * 10


def test_shards_are_summed_over_devices():
  mesh = jax.make_mesh(
    (4, 2), ("a", "b"), axis_types=(jax.sharding.AxisType.Auto,) * 2
  )
  rows = PartitionSpec("a")
  with jax.set_mesh(mesh):
    count = counted(
      jax.shard_map(
        lambda x, w: x @ w,
        in_specs=(rows, PartitionSpec()),
        out_specs=rows,
        axis_names={"a"},
      ),
      (8, 5),
      (5, 6),
    )
  assert count.flops == 2 * 8 * 5 * 6


def test_loops_of_unknown_length_are_said():
  def until_small(x, w):
    return jax.lax.while_loop(lambda x: jnp.sum(x) > 1.0, lambda x: x @ w, x)

  count = counted(until_small, (4, 4), (4, 4))
  assert count == flops.Count(2 * 4 * 4 * 4, 1)


def test_of_two_branches_the_dearer_counts():
  def either(x, w):
    return jax.lax.cond(x[0, 0] > 0, lambda x: x @ w, lambda x: (x @ w) @ w, x)

  assert counted(either, (4, 4), (4, 4)).flops == 2 * 2 * 4 * 4 * 4
