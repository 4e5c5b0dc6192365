"""The same bits on any number of devices; and on those alone that it promises.

The towers through `clap train`: tests/trainers/deterministic_test.py.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clap_jax import config as config_lib
from clap_jax.training import checkpoint, deterministic
from tests.training import tiny_run, tiny_task


@dataclasses.dataclass(frozen=True)
class SlicedTask(tiny_task.TinyTask):
  """Whose loss couples all rows, as contrastive ones do."""

  num_slices: int = 8

  def sliced(self):
    def objective(params, output, rest):
      del params
      error = output - output.mean(axis=0) - rest
      return jnp.mean(error**2), {"max_error": jnp.max(jnp.abs(error))}

    return deterministic.Sliced(
      divide=lambda batch: ({"x": batch["x"]}, batch["y"]),
      encode=self.predict,
      objective=objective,
      num_slices=self.num_slices,
    )


def train(workdir, num_devices, *, num_steps=4, task=None, **mesh):
  return tiny_run.run(
    workdir,
    num_steps=num_steps,
    task=task or SlicedTask(),
    mesh=config_lib.MeshConfig(**mesh),
    devices=jax.devices()[:num_devices],
  )


def assert_same_bits(one, other):
  for a, b in zip(*map(jax.tree.leaves, (one, other)), strict=True):
    assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_one_and_four_devices_and_a_move_between_them(tmp_path):
  one = train(tmp_path / "1", 1)
  moved = tmp_path / "moved"
  assert_same_bits(train(moved, 4, fsdp=2), one)
  steps = checkpoint.Checkpoints(moved / "checkpoints", keep=2)
  assert steps.discard_from(3) == 2  # as if it had been killed
  steps.close()
  assert_same_bits(train(moved, 2), one)
  params = jax.device_get(one.params)
  start = train(tmp_path / "start", 1, num_steps=0).params
  assert np.abs(params["tower"]["kernel"] - start["tower"]["kernel"]).max() > 0


def test_it_learns_what_the_usual_step_learns(tmp_path):
  class Whole(SlicedTask):
    def loss(self, params, batch, rng):
      items, rest = SlicedTask().sliced().divide(batch)
      return (
        SlicedTask()
        .sliced()
        .objective(params, self.predict(params, items), rest)
      )

    def sliced(self):
      return None

  one = train(tmp_path / "sliced", 1)
  other = train(tmp_path / "whole", 1, task=Whole())
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
    jax.device_get(one.params),
    jax.device_get(other.params),
  )


@pytest.mark.parametrize(
  ("num_devices", "mesh", "message"),
  [
    (3, {}, "power of two"),
    (2, {"data": 1, "tensor": 2}, "mesh.tensor is 2"),
    (4, {"fsdp": 4, "fsdp_min_size": 1}, "set mesh.fsdp to 1"),
  ],
)
def test_a_mesh_that_cannot_keep_the_promise(
  tmp_path, num_devices, mesh, message
):
  with pytest.raises(ValueError, match=message):
    train(tmp_path, num_devices, **mesh)


def test_fewer_slices_than_devices(tmp_path):
  with pytest.raises(ValueError, match="4 slices"):
    train(tmp_path, 8, task=SlicedTask(num_slices=4))
