"""Encoding a long video clip by clip: equal gradients, memory without n."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clap_jax.models import long_video, variants, video_transformer

TOWER = video_transformer.VideoTransformer(
  variants.VIDEO_SIZES["micro"], patch=(2, 8, 8), remat=True
)


def clips_of(num_videos, num_clips):
  shape = (num_videos, num_clips, 4, 16, 16, 3)
  return np.random.default_rng(0).integers(0, 255, shape, np.uint8)


@pytest.fixture(scope="module")
def params():
  return TOWER.init(jax.random.key(0), clips_of(1, 1)[0])


def at_once(params, clips):
  flat = TOWER.apply(params, clips.reshape(-1, *clips.shape[2:]))
  return flat.reshape(*clips.shape[:2], -1)


def clip_by_clip(params, clips, **options):
  return long_video.encode_clips(params, clips, encode=TOWER.apply, **options)


def coupled_loss(features):
  """A scalar in which every clip depends on every other one of its video."""
  weight = jax.nn.softmax(features @ jnp.swapaxes(features, 1, 2))
  return jnp.mean(jnp.sin(weight @ features))


@pytest.mark.parametrize("clips_per_step", [1, 2, 6])
def test_value_and_gradient_are_those_of_all_clips_at_once(
  params, clips_per_step
):
  clips = clips_of(2, 6)
  one, one_gradient = jax.value_and_grad(
    lambda p: coupled_loss(at_once(p, clips))
  )(params)
  two, two_gradient = jax.value_and_grad(
    lambda p: coupled_loss(
      clip_by_clip(p, clips, clips_per_step=clips_per_step)
    )
  )(params)
  np.testing.assert_allclose(one, two, rtol=1e-5)
  largest = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(one_gradient))
  assert largest > 1e-4
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * largest),
    one_gradient,
    two_gradient,
  )


def test_clips_keep_their_places(params):
  clips = clips_of(2, 6)
  for clips_per_step in (1, 3):
    np.testing.assert_allclose(
      clip_by_clip(params, clips, clips_per_step=clips_per_step),
      at_once(params, clips),
      rtol=1e-4,
      atol=1e-5,
    )


def test_trees_of_features_are_taken(params):
  result = long_video.encode_clips(
    params,
    clips_of(2, 3),
    encode=lambda p, x: {"mean": x.mean(axis=(1, 2, 3)), "id": x[:, 0, 0, 0]},
  )
  assert {k: v.shape for k, v in result.items()} == {
    "mean": (2, 3, 3),
    "id": (2, 3, 3),
  }


def test_kernels_are_rounded_and_their_gradients_are_not(params):
  clips = clips_of(1, 4)
  rounded = jax.tree_util.tree_map_with_path(
    lambda path, leaf: (
      leaf.astype(jnp.bfloat16).astype(jnp.float32)
      if path[-1].key == "kernel"
      else leaf
    ),
    params,
  )
  features = clip_by_clip(params, clips, kernel_dtype=jnp.bfloat16)
  np.testing.assert_allclose(features, at_once(rounded, clips), atol=1e-5)
  gradient = jax.grad(
    lambda p: coupled_loss(clip_by_clip(p, clips, kernel_dtype=jnp.bfloat16))
  )(params)
  assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(gradient))


def temporary_bytes(params, num_clips, encoder):
  clips = jax.ShapeDtypeStruct((1, num_clips, 4, 16, 16, 3), jnp.uint8)
  gradient = jax.jit(jax.grad(lambda p, x: jnp.sum(encoder(p, x) ** 2)))
  compiled = gradient.lower(params, clips).compile()
  return compiled.memory_analysis().temp_size_in_bytes


def test_memory_does_not_grow_with_the_video(params):
  few, many = (temporary_bytes(params, n, clip_by_clip) for n in (4, 64))
  feature_bytes = 4 * 16
  clip_bytes = 4 * 16 * 16 * 3
  assert many - few < 60 * (4 * feature_bytes)  # not even the clip itself
  few, many = (temporary_bytes(params, n, at_once) for n in (4, 64))
  assert many - few > 60 * clip_bytes


def test_a_step_that_does_not_divide_is_named(params):
  with pytest.raises(ValueError, match="got 4 and 6 clips"):
    clip_by_clip(params, clips_of(1, 6), clips_per_step=4)
