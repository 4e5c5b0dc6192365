import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clap_jax.models.heads import ConvHead, HeadConfig
from clap_jax.models.pyramid import (
  Level,
  Pyramid,
  PyramidConfig,
  drop_gaps,
  join_levels,
)
from clap_jax.ops.points import level_sizes

RNG = np.random.default_rng(0)
SMALL = {
  "width": 16,
  "num_levels": 2,
  "num_heads": 2,
  "window_steps": 5,
  "num_stem_convs": 1,
  "num_stem_blocks": 0,
}


@pytest.mark.parametrize(
  ("block", "use_positions"), [("attention", False), ("conv", True)]
)
def test_padding_changes_nothing(block, use_positions):
  config = PyramidConfig(block=block, use_positions=use_positions, **SMALL)
  model = Pyramid(config)
  x = RNG.normal(size=(2, 13, 6)).astype(np.float32)
  mask = np.arange(13) < np.array([[13], [6]])
  params = jax.jit(model.init)(jax.random.key(0), x, mask)
  levels = jax.jit(model.apply)(params, x, mask)
  assert [level.mask.shape[1] for level in levels] == [13, 7]
  assert [int(level.mask[1].sum()) for level in levels] == [6, 3]

  garbage = np.full((2, 8, 6), np.nan, np.float32)
  longer = np.concatenate([np.where(mask[..., None], x, np.nan), garbage], 1)
  longer_mask = np.pad(mask, ((0, 0), (0, 8)))

  def loss(params):
    levels = model.apply(params, longer, longer_mask)
    return sum(jnp.sum(level.features**3) for level in levels), levels

  grads, longer_levels = jax.jit(jax.grad(loss, has_aux=True))(params)
  for a, b in zip(levels, longer_levels, strict=True):
    size = a.mask.shape[1]
    np.testing.assert_allclose(b.features[:, :size], a.features, atol=1e-5)
    assert not np.any(b.features[:, size:])
    assert not np.any(b.mask[:, size:])
  for grad in jax.tree.leaves(grads):
    assert np.all(np.isfinite(grad))


def test_joined_levels_act_as_if_alone():
  sizes = level_sizes(11, num_levels=3)
  levels = tuple(
    Level(
      jnp.asarray(RNG.normal(size=(2, n, 8)), jnp.float32),
      jnp.arange(n) < jnp.array([[n], [n - 1]]),
    )
    for n in sizes
  )
  config = HeadConfig(kernel_size=5)
  head = ConvHead(4, config)
  joined = join_levels(levels, gap=config.gap)
  init = jax.jit(functools.partial(head.init, deterministic=True))
  apply = jax.jit(functools.partial(head.apply, deterministic=True))
  params = init(jax.random.key(0), *joined)
  got = drop_gaps(
    apply(params, *joined),
    num_steps=11,
    num_levels=3,
    gap=config.gap,
  )
  alone = [apply(params, *level) for level in levels]
  np.testing.assert_allclose(got, jnp.concatenate(alone, axis=1), atol=1e-5)
  with pytest.raises(ValueError, match="num_steps and gap"):
    drop_gaps(joined.mask, num_steps=12, num_levels=3, gap=config.gap)


def test_configuration_is_checked():
  with pytest.raises(ValueError, match="attention"):
    PyramidConfig(block="mamba")
  with pytest.raises(ValueError, match="odd"):
    PyramidConfig(window_steps=4)
  with pytest.raises(ValueError, match="num_levels"):
    PyramidConfig(num_levels=0)
