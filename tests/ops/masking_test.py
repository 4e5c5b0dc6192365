import jax
import jax.numpy as jnp
import numpy as np

from clap_jax.ops import masking

RNG = np.random.default_rng(0)
X = RNG.normal(size=(5, 8)).astype(np.float32)
MASK = RNG.random((5, 8)) < 0.6
MASK[3] = False
MASK[4] = True
# Garbage outside the mask must not matter.
DIRTY = np.where(MASK, X, np.resize(np.float32([np.nan, np.inf]), X.shape))

OPS = {
  "mean": lambda x, m: masking.masked_mean(x, m, axis=-1),
  "sum": lambda x, m: masking.masked_sum(x, m, axis=-1),
  "max": lambda x, m: masking.masked_max(x, m, axis=-1, empty=-7.0),
  "softmax": lambda x, m: masking.masked_softmax(x, m, axis=-1),
  "log_softmax": lambda x, m: masking.masked_log_softmax(x, m, axis=-1),
}


def on_valid_only(name, x):
  """The plain operation on the valid elements of one row."""
  shifted = np.exp(x - x.max()) if x.size else x
  return {
    "mean": lambda: x.mean() if x.size else 0.0,
    "sum": lambda: x.sum() if x.size else 0.0,
    "max": lambda: x.max() if x.size else -7.0,
    "softmax": lambda: shifted / shifted.sum(),
    "log_softmax": lambda: np.log(shifted / shifted.sum()),
  }[name]()


def test_mask_law_on_dirty_padding():
  for name, op in OPS.items():
    got = np.asarray(op(jnp.asarray(DIRTY), MASK))
    for row in range(len(X)):
      expected = on_valid_only(name, X[row][MASK[row]])
      if got.ndim == 2:
        np.testing.assert_allclose(got[row][MASK[row]], expected, atol=1e-6)
        assert np.all(got[row][~MASK[row]] == 0)
      else:
        np.testing.assert_allclose(got[row], expected, atol=1e-6)


def test_gradients_are_finite_and_zero_outside_the_mask():
  for name, op in OPS.items():
    weight = jnp.arange(1.0, 9.0)

    def total(x, op=op, weight=weight):
      y = op(x, MASK)
      return jnp.sum(y * weight[None] if y.ndim == 2 else y)

    grad = np.asarray(jax.grad(total)(jnp.asarray(DIRTY)))
    assert np.all(np.isfinite(grad)), name
    assert np.all(grad[~MASK] == 0), name


def test_softmax_survives_extreme_logits():
  logits = jnp.array([1e30, -1e30, 0.0])
  mask = jnp.array([True, True, False])
  np.testing.assert_array_equal(
    masking.masked_softmax(logits, mask, axis=0), [1, 0, 0]
  )


def test_keep_zeroes_what_is_outside_the_mask():
  mask = np.arange(3) < np.array([[0], [2], [3]])
  kept = masking.keep(jnp.full((3, 3, 2), jnp.nan), mask)
  assert np.all(np.asarray(kept)[~mask] == 0)
