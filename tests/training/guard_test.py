import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clap_jax.training import guard


def oracle(value, recent, deviations):
  known = recent[~np.isnan(recent)]
  if len(known) < 32:
    return False
  median = np.median(known)
  spread = 1.4826 * np.median(np.abs(known - median))
  spread = max(spread, 0.05 * abs(median))
  return bool(spread > 0 and value > median + deviations * spread)


@pytest.mark.parametrize("num_known", [0, 1, 31, 32, 50, 64])
@pytest.mark.parametrize("centre", [0.01, 3.0, -2.0])
def test_against_numpy(num_known, centre):
  rng = np.random.default_rng(num_known)
  recent = np.full(64, np.nan, np.float32)
  if num_known:
    recent[-num_known:] = rng.normal(centre, 0.1, num_known)
  check = jax.jit(lambda v, r: guard.is_outlier(v, r, deviations=20.0))
  found = []
  for value in (centre, centre + 0.3, centre + 50.0, 1e30, -1e30):
    found.append(bool(check(jnp.float32(value), recent)))
    assert found[-1] == oracle(value, recent, 20.0), value
  assert any(found) == (num_known >= 32)


def test_equal_values_and_zeros():
  ones, zeros = np.ones(64, np.float32), np.zeros(64, np.float32)
  assert not guard.is_outlier(jnp.float32(1.9), ones, deviations=20.0)
  assert guard.is_outlier(jnp.float32(2.1), ones, deviations=20.0)
  assert not guard.is_outlier(jnp.float32(5.0), zeros, deviations=20.0)


def test_only_accepted_values_are_remembered():
  recent = guard.no_history()
  recent = guard.remember(recent, jnp.float32(1), jnp.bool_(True))
  recent = guard.remember(recent, jnp.float32(np.nan), jnp.bool_(False))
  recent = guard.remember(recent, jnp.float32(3), jnp.bool_(True))
  np.testing.assert_array_equal(recent[-2:], [1, 3])
  assert np.isnan(recent[:-2]).all()
  assert recent.shape == (guard.WINDOW_STEPS,)
