"""Shards activations and kernels over the mesh by axis names.

Modules name the axes of their activations, the table below those of parameters;
`types.MESH_AXES` maps each name to the mesh axes that split it. Without a mesh
nothing is sharded.
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
  """Shards an array over the ambient mesh by the names of its axes.

  A batch that does not divide, such as the single row that initialises a model,
  is not split.

  Args:
    x: array of any shape.
    ****axes: position in `x` by name in types.MESH_AXES. All other axes are
      whole on every device.

  Raises:
    ValueError: an axis other than the batch does not divide.
  """
  mesh = jax.sharding.get_abstract_mesh()
  # Under shard_map the caller handles the axes.
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
