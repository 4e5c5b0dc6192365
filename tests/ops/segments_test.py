import itertools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clap_jax.ops import segments as segment_ops

NAMES = ("iou", "giou", "diou")
JITTED = {name: jax.jit(getattr(segment_ops, name)) for name in NAMES}
numbers = st.floats(-50, 50, width=32)
lengths = st.just(0.0) | st.floats(0.125, 30, width=32)
segment = st.tuples(numbers, lengths).map(lambda x: [x[0], x[0] + x[1]])


def reference(name, a, b):
  """The IoU family from its definitions, one pair at a time."""
  (a0, a1), (b0, b1) = np.float64(a), np.float64(b)
  common = max(0.0, min(a1, b1) - max(a0, b0))
  union = (a1 - a0) + (b1 - b0) - common
  hull = max(a1, b1) - min(a0, b0)
  value = common / union if union > 0 else 0.0
  if hull > 0 and name == "giou":
    value -= (hull - union) / hull
  if hull > 0 and name == "diou":
    value -= ((a0 + a1) / 2 - (b0 + b1) / 2) ** 2 / hull**2
  return value


@pytest.mark.parametrize("name", NAMES)
def test_pairwise_equals_the_definition(name):
  rng = np.random.default_rng(0)
  a = np.sort(rng.uniform(-5, 5, (7, 2)), axis=-1).astype(np.float32)
  b = np.sort(rng.uniform(-5, 5, (9, 2)), axis=-1).astype(np.float32)
  b[0] = a[0]
  b[1] = a[1, 0]  # of zero length
  got = segment_ops.pairwise(getattr(segment_ops, name), a, other=b)
  expected = [[reference(name, x, y) for y in b] for x in a]
  np.testing.assert_allclose(got, expected, atol=1e-5)


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(a=segment, b=segment, shift=numbers)
def test_laws(a, b, shift):
  a, b = np.float32(a), np.float32(b)
  for similarity in JITTED.values():
    value = float(similarity(a, b))
    assert value == float(similarity(b, a))
    assert -1 - 1e-6 <= value <= 1 + 1e-6
    # Scale of time; the powers of two are exact, the shift is not.
    assert value == pytest.approx(float(similarity(4 * a, 4 * b)), abs=1e-6)
    if min(a[1] - a[0], b[1] - b[0]) > 1:
      moved = float(similarity(a + shift, b + shift))
      assert value == pytest.approx(moved, abs=1e-3)
  assert float(JITTED["iou"](a, a)) == (1.0 if a[1] > a[0] else 0.0)


def test_gradients_are_finite_at_every_degenerate_pair():
  values = (0.0, 1.0, 1e-30, 1e6)
  ends = np.array(list(itertools.product(values, repeat=4)), np.float32)
  for name in NAMES:
    similarity = getattr(segment_ops, name)
    grad = jax.grad(lambda a, b, f=similarity: jnp.sum(f(a, b)), (0, 1))
    for g in grad(ends[:, :2], ends[:, 2:]):
      assert np.all(np.isfinite(g)), name


def test_reversed_segments_are_empty():
  assert float(segment_ops.lengths(jnp.array([3.0, 1.0]))) == 0
  assert float(segment_ops.iou(jnp.array([3.0, 1.0]), jnp.array([0.0, 9]))) == 0
