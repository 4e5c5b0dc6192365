"""Counts floating-point operations of a traced function, with loops.

The compiler's own cost analysis counts the body of a loop once, which is wrong
for layers and clips that are scanned over.
"""

import math
from typing import Any, NamedTuple


class Count(NamedTuple):
  """Operations of matrix products and convolutions only."""

  flops: int  # over all devices; a multiply and an add are two
  unknown_loops: int  # loops of unknown length


def count(jaxpr: Any) -> Count:
  """Counts a (closed) jaxpr. A loop of unknown length counts once."""
  jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
  flops = unknown = 0
  for equation in jaxpr.eqns:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
      flops += _of_product(equation)
    elif name == "conv_general_dilated":
      flops += _of_convolution(equation)
    elif name == "cond":
      branches = [count(branch) for branch in params["branches"]]
      flops += max(branch.flops for branch in branches)
      unknown += max(branch.unknown_loops for branch in branches)
    elif name == "while":
      body = count(params["body_jaxpr"])
      flops += body.flops
      unknown += body.unknown_loops + (body.flops > 0)
    else:
      times = {"scan": _length, "shard_map": _num_shards}.get(name, _once)
      for inner in _inner_jaxprs(params):
        body = count(inner)
        flops += times(params) * body.flops
        unknown += body.unknown_loops
  return Count(flops, unknown)


def _once(params) -> int:
  del params
  return 1


def _length(params) -> int:
  return params["length"]


def _num_shards(params) -> int:
  """Returns the number of shards along manual axes, which run the body."""
  # Called newly_manual_axes by some versions of jax.
  (axes,) = (v for k, v in params.items() if k.endswith("manual_axes"))
  return math.prod(params["mesh"].shape[axis] for axis in axes)


def _inner_jaxprs(params):
  """Yields the jaxprs of an equation; for custom derivatives the primal."""
  for name in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
    if name in params:
      yield params[name]


def _of_product(equation) -> int:
  left = equation.invars[0].aval.shape
  (contracted, _), _ = equation.params["dimension_numbers"]
  size = math.prod(left[axis] for axis in contracted)
  return 2 * size * math.prod(equation.outvars[0].aval.shape)


def _of_convolution(equation) -> int:
  kernel = equation.invars[1].aval.shape
  _, in_channels, *window = equation.params["dimension_numbers"].rhs_spec
  per_output = kernel[in_channels] * math.prod(kernel[a] for a in window)
  outputs = math.prod(equation.outvars[0].aval.shape)
  # The gradient by the input of a strided convolution is one over an input with
  # gaps of zeros, which need not be multiplied.
  gaps = math.prod(equation.params["lhs_dilation"])
  return 2 * per_output * outputs // gaps
