import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clap_jax.training import utilization, writer
from tests.training import tiny_run


@jax.jit
def step(state, batch):
  return jax.lax.fori_loop(0, 3, lambda _, x: batch @ x, state), {}


def test_examples_and_operations_per_second(monkeypatch):
  state, batch = jnp.ones((8, 8)), jnp.ones((8, 8))
  read = utilization.Utilization(step, state, batch).read(10.0)
  assert read == {
    "perf/examples_per_sec": 80.0,
    "perf/flops_per_sec": pytest.approx(3 * 2 * 8**3 * 10.0),
  }
  kind = jax.devices()[0].device_kind
  monkeypatch.setitem(utilization.PEAK_FLOPS_PER_SEC, kind, 1e6)
  read = utilization.Utilization(step, state, batch).read(10.0)
  assert read["perf/mfu"] == pytest.approx(3 * 2 * 8**3 * 10.0 / 1e6)


def test_a_loop_of_unknown_length_has_no_count():
  @jax.jit
  def endless(state, batch):
    grown = jax.lax.while_loop(
      lambda x: jnp.sum(x) < 1e3, lambda x: batch @ x, state
    )
    return grown, {}

  square = jnp.ones((4, 4))
  read = utilization.Utilization(endless, square, square).read(1.0)
  assert set(read) == {"perf/examples_per_sec"}


def test_a_run_records_them(tmp_path):
  tiny_run.run(tmp_path, num_steps=3)
  last = writer.read_metrics(tmp_path)[-1]
  assert last["perf/examples_per_sec"] == pytest.approx(
    16 * last["perf/steps_per_sec"]
  )
  # Forward and backward products of the task, without that by its input.
  forward = 2 * 16 * (8 * 32 + 32 * 4)
  backward = 2 * 16 * (8 * 32 + 2 * 32 * 4)
  flops = last["perf/flops_per_sec"] / last["perf/steps_per_sec"]
  np.testing.assert_allclose(flops, forward + backward, rtol=1e-6)
