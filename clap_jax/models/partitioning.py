"""Lays out activations and kernels on the mesh by axis names.

A module names the axes of its activations, the table below those of its
parameters; `types.MESH_AXES` maps each name to the mesh axes that split it.
Without a mesh nothing happens.
"""

import math

import jax
from jax.sharding import AxisType, PartitionSpec

from clap_jax import types

# (regex on a parameter's path, names of its last axes). Between a first product
# split by its outputs and a second one split by its inputs nothing is sent.
# Source: Shoeybi et al., "Megatron-LM", section 3.
PARAMETER_AXES = (
  (r"(^|/)(q|k|v)/kernel$", ("width", "heads")),
  (r"(^|/)(q|k|v)/bias$", ("heads",)),
  (r"(^|/)out/kernel$", ("heads", "width")),
  (r"(^|/)up/kernel$", ("width", "hidden")),
  (r"(^|/)up/bias$", ("hidden",)),
  (r"(^|/)down/kernel$", ("hidden", "width")),
)


def constrain(x: jax.Array, **axes: int) -> jax.Array:
  """Lays an array out on the ambient mesh by the names of its axes.

  A batch that does not divide, such as the single row that initialises a model,
  is not split.

  Args:
    x: of any shape.
    **axes: name in types.MESH_AXES -> position in `x`. All other axes are whole
      on every device.

  Raises:
    ValueError: if another axis than the batch does not divide.
  """
  mesh = jax.sharding.get_abstract_mesh()
  # Under shard_map the axes are the caller's business.
  free = {
    name: mesh.shape[name]
    for name, kind in zip(mesh.axis_names, mesh.axis_types, strict=True)
    if kind == AxisType.Auto and mesh.shape[name] > 1
  }
  if not free:
    return x
  spec: list[tuple[str, ...] | None] = [None] * x.ndim
  for name, position in axes.items():
    over = tuple(axis for axis in types.MESH_AXES[name] if axis in free)
    ways = math.prod(free[axis] for axis in over)
    if x.shape[position] % ways == 0:
      spec[position] = over or None
    elif name != "batch":
      raise ValueError(
        f"An axis of {x.shape[position]} {name} cannot be split over "
        f"{' x '.join(over)}={ways}: choose a divisor for the mesh."
      )
  return jax.lax.with_sharding_constraint(x, PartitionSpec(*spec))
