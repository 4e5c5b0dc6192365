"""Starting from another run's parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clap_jax.training import pretrained
from clap_jax.training import state as state_lib


def _state(ema=True):
  params = {
    "tower": {"kernel": jnp.zeros((2, 3)), "bias": jnp.zeros(3)},
    "head": {"kernel": jnp.zeros((3, 4))},
  }
  return state_lib.TrainState(
    step=jnp.zeros((), jnp.int32),
    seed=jnp.zeros((), jnp.uint32),
    params=params,
    opt_state=(),
    ema=jax.tree.map(jnp.copy, params) if ema else None,
    num_skipped=jnp.zeros((), jnp.int32),
    num_skipped_in_a_row=jnp.zeros((), jnp.int32),
    num_rollbacks=jnp.zeros((), jnp.int32),
    recent_losses=jnp.zeros(64),
    recent_grad_norms=jnp.zeros(64),
  )


def _source(**changes):
  source = {
    "tower": {"kernel": np.ones((2, 3)), "bias": np.full(3, 2.0)},
    "head": {"kernel": np.ones((3, 7))},
    "old": {"kernel": np.ones(5)},
  }
  return source | changes


def test_takes_what_matches_and_leaves_the_rest():
  state = pretrained.start_from(_state(), _source(), patterns=("tower/",))
  for params in (state.params, state.ema):
    np.testing.assert_array_equal(params["tower"]["kernel"], 1)
    np.testing.assert_array_equal(params["tower"]["bias"], 2)
    np.testing.assert_array_equal(params["head"]["kernel"], 0)
    assert params["tower"]["kernel"].dtype == jnp.float32


def test_parameters_of_another_shape_are_all_listed():
  source = _source(tower={"kernel": np.ones((9, 3)), "bias": np.ones(4)})
  with pytest.raises(ValueError, match=r"(?s)tower/bias.*tower/kernel"):
    pretrained.start_from(_state(), source, patterns=("tower/",))


def test_a_start_that_changes_nothing_is_an_error():
  with pytest.raises(ValueError, match="No parameter"):
    pretrained.start_from(_state(), _source(), patterns=("old/", "missing"))
