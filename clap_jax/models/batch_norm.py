"""Defines batch normalisation independent of the number of devices."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

COLLECTION = "batch_stats"  # holds the running averages


class BatchNorm(nn.Module):
  """Normalises each channel over the batch and all other axes.

  Arrays are global under jit, so statistics of the whole batch span all
  devices. `num_groups` cuts the batch into equal parts with separate
  statistics, as that many devices without synchronisation would have: the
  result is the same on any number of devices, and if the parts are the devices'
  shares, nothing is sent between them.

  The running variance is that of the population, as in PyTorch: times n / (n -
  1).

  Attributes:
    momentum: weight of the old running average; 1 minus PyTorch's momentum.
    epsilon: added to the variance.
    num_groups: number of parts of the batch; 0 uses the running averages in
      training as well and does not update them.
    dtype: dtype of the result; statistics are float32.
  """

  momentum: float
  epsilon: float
  num_groups: int = 1
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    width = x.shape[-1]
    scale = self.param("scale", nn.initializers.ones_init(), (width,))
    bias = self.param("bias", nn.initializers.zeros_init(), (width,))
    running_mean = self.variable(
      COLLECTION, "mean", lambda: jnp.zeros((width,), jnp.float32)
    )
    running_var = self.variable(
      COLLECTION, "var", lambda: jnp.ones((width,), jnp.float32)
    )
    # The batch at init is not real: its statistics would be those of zeros.
    if not train or not self.num_groups or self.is_initializing():
      factor = scale * jax.lax.rsqrt(running_var.value + self.epsilon)
      shift = bias - running_mean.value * factor
      return (x * factor + shift).astype(self.dtype)
    grouped = self._grouped(x)
    wide = grouped.astype(jnp.float32)
    mean = wide.mean(axis=1, keepdims=True)
    var = jnp.square(wide - mean).mean(axis=1, keepdims=True)
    count = grouped.shape[1]
    self._track(running_mean, mean)
    self._track(running_var, var * (count / max(count - 1, 1)))
    factor = scale * jax.lax.rsqrt(var + self.epsilon)
    y = (wide - mean) * factor + bias
    return y.astype(self.dtype).reshape(x.shape)

  def _grouped(self, x):  # (b, ..., d) -> (groups, everything else, d)
    if x.shape[0] % self.num_groups:
      raise ValueError(
        f"The batch of {x.shape[0]} cannot be cut into {self.num_groups} equal "
        "parts for batch normalisation: change the batch size or "
        "batch_norm_groups."
      )
    return x.reshape(self.num_groups, -1, x.shape[-1])

  def _track(self, variable, value) -> None:
    value = jax.lax.stop_gradient(value).mean(axis=(0, 1))
    variable.value = (
      self.momentum * variable.value + (1.0 - self.momentum) * value
    )
