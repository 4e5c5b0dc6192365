import jax
import numpy as np
import pytest

from clap_jax import config as config_lib
from clap_jax.evaluation import predictor as predictor_lib
from clap_jax.training import mesh as mesh_lib
from tests.training import tiny_task


def test_every_row_comes_back_once_whatever_the_sizes():
  task = tiny_task.TinyTask()
  params = task.init(jax.random.key(0))
  mesh = mesh_lib.make_mesh(config_lib.MeshConfig(fsdp=2))
  predictor = predictor_lib.Predictor(task.predict, mesh=mesh, batch_size=8)
  x = np.random.default_rng(0).normal(size=(19, 8)).astype(np.float32)
  batches = [{"x": x[:8]}, {"x": x[8:16]}, {"x": x[16:]}]
  results = list(predictor_lib.predict_batches(predictor, params, batches))
  assert [len(outputs) for _, outputs in results] == [8, 8, 3]
  assert isinstance(results[0][1], np.ndarray)
  np.testing.assert_allclose(
    np.concatenate([outputs for _, outputs in results]),
    task.predict(params, {"x": x}),
    rtol=1e-5,
    atol=1e-6,
  )


def test_padding():
  padded, valid_mask = predictor_lib.pad_batch({"x": np.arange(3)}, 5)
  np.testing.assert_array_equal(padded["x"], [0, 1, 2, 2, 2])
  np.testing.assert_array_equal(valid_mask, [True] * 3 + [False] * 2)
  with pytest.raises(ValueError, match="1 to 5 rows, got 6"):
    predictor_lib.pad_batch({"x": np.arange(6)}, 5)


def test_outputs_without_rows_are_refused():
  mesh = mesh_lib.make_mesh(config_lib.MeshConfig())
  predictor = predictor_lib.Predictor(
    lambda params, batch: {"mean": batch["x"].mean()}, mesh=mesh, batch_size=8
  )
  with pytest.raises(ValueError, match="'mean' has shape"):
    predictor({}, {"x": np.zeros((8,), np.float32)})
