"""A small regression task whose noise depends on the step's key."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

BATCH_SIZE = 16


@dataclasses.dataclass(frozen=True)
class TinyTask:
  """A two-layer network with noise on its input."""

  width: int = 32
  noise: float = 0.01

  def init(self, rng):
    first, second = jax.random.split(rng)
    return {
      "tower": {
        "kernel": 0.3 * jax.random.normal(first, (8, self.width)),
        "bias": jnp.zeros((self.width,)),
      },
      "head": {"kernel": 0.3 * jax.random.normal(second, (self.width, 4))},
    }

  def loss(self, params, batch, rng):
    noise = self.noise * jax.random.normal(rng, batch["x"].shape)
    error = self.predict(params, {"x": batch["x"] + noise}) - batch["y"]
    return jnp.mean(error**2), {"max_error": jnp.max(jnp.abs(error))}

  def predict(self, params, batch):
    tower = params["tower"]
    hidden = jnp.tanh(batch["x"] @ tower["kernel"] + tower["bias"])
    return hidden @ params["head"]["kernel"]


def batches_from(start_step):
  """An endless stream whose batch n depends on n alone."""
  step = start_step
  while True:
    rng = np.random.default_rng((7, step))
    x = rng.normal(size=(BATCH_SIZE, 8)).astype(np.float32)
    yield {"x": x, "y": np.sin(x[:, :4]) + x[:, 4:]}
    step += 1
