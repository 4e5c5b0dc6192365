"""Every way to compute attention gives one result; styles of blocks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clap_jax.models import attention, layers, variants, video_transformer

SIZE = variants.TransformerSize(width=8, depth=2, num_heads=2, mlp_width=16)


def inputs(*shape, seed=0):
  return jax.random.normal(jax.random.key(seed), shape)


MASKS = {
  "none": None,
  "keys": np.array([[True] * 7, [True] * 3 + [False] * 4])[:, None, None],
  "queries": np.tri(7, dtype=bool)[None, None],
  "nothing valid": np.zeros((2, 1, 1, 7), bool),
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize(
  ("name", "query_chunk", "logit_cap"),
  [("chunked", 3, 0.0), ("chunked", 16, 0.5), ("fused", 0, 0.0)],
)
def test_attention_is_the_same_however_computed(
  mask, name, query_chunk, logit_cap
):
  q, k, v = (inputs(2, 2, 7, 4, seed=i) for i in range(3))

  def value_and_grad(function):
    def loss(q, k, v):
      y = function(
        q, k, v, MASKS[mask], query_chunk=query_chunk, logit_cap=logit_cap
      )
      return (y**2).sum(), y

    return jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)(q, k, v)

  expected = value_and_grad(layers.attend_whole)
  got = value_and_grad(layers.ATTENTIONS[name])
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
    got,
    expected,
  )


def test_a_chunk_of_nothing_is_refused():
  with pytest.raises(ValueError, match="at least 1"):
    layers.attend_chunked(*(inputs(1, 1, 2, 4),) * 3, None, query_chunk=0)


def test_causal_tokens_do_not_see_what_follows():
  style = variants.BlockStyle(causal=True)
  stack = attention.Stack(attention.TokenBlock, SIZE, style=style)
  x = inputs(2, 6, 8)
  params = stack.init(jax.random.key(0), x)
  changed = x.at[:, 4:].add(1.0)
  one, two = stack.apply(params, x), stack.apply(params, changed)
  np.testing.assert_allclose(one[:, :4], two[:, :4], atol=1e-6)
  assert np.abs(one[:, 4:] - two[:, 4:]).max() > 1e-2


@pytest.mark.parametrize("policy", attention.REMAT_POLICIES)
def test_what_is_recomputed_changes_no_gradient(policy):
  x = inputs(2, 3, 4, 8)

  def gradient(**kwargs):
    stack = attention.Stack(attention.SpaceTimeBlock, SIZE, **kwargs)
    params = stack.init(jax.random.key(0), x)
    return jax.jit(jax.grad(lambda p: (stack.apply(p, x) ** 2).sum()))(params)

  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4),
    gradient(remat=True, remat_policy=policy),
    gradient(),
  )


def test_clips_of_any_length():
  """Positions in time are spread over what the clip has."""
  tower = video_transformer.VideoTransformer(
    variants.VIDEO_SIZES["micro"], patch=(2, 8, 8), num_frames=4
  )

  def frames(count):
    rng = np.random.default_rng(0)
    return rng.integers(0, 255, (1, count, 8, 8, 3), np.uint8)

  params = tower.init(jax.random.key(0), frames(4))
  assert params["params"]["time_positions"].shape == (2, 1, 16)
  for count in (2, 4, 6, 10):
    feature = tower.apply(params, frames(count))
    assert feature.shape == (1, 16)
    assert jnp.isfinite(feature).all()
  still = np.repeat(frames(1), 8, axis=1)
  flat = jax.tree.map(lambda p: p, params)
  flat["params"]["time_positions"] = jnp.ones((2, 1, 16))
  short, long = (tower.apply(flat, still[:, :n]) for n in (4, 8))
  np.testing.assert_allclose(short, long, atol=1e-5)


def test_motion_needs_a_tower_with_motion_input():
  tower = video_transformer.VideoTransformer(
    variants.VIDEO_SIZES["micro"],
    patch=(2, 8, 8),
    motion_gain=5.0,
    style=video_transformer.STYLES["clip"],
  )
  with pytest.raises(ValueError, match=r"motion_gain is 5\.0"):
    tower.init(jax.random.key(0), np.zeros((1, 4, 8, 8, 3), np.uint8))
