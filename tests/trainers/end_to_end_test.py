"""Localization with the tower in the loop: exact, frozen where told, usable."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clap_jax import config as config_lib
from clap_jax import types
from clap_jax.evaluation import end_to_end as evaluation
from clap_jax.models import dual_encoder
from clap_jax.trainers import end_to_end, registry
from clap_jax.training import optimizer as optimizer_lib
from configs import localization_end_to_end_sprites
from tests.benchmarks import end_to_end_memory
from tests.configs import keys
from tests.data import built_dataset
from tests.trainers import toy_runs


def batch_of(task, *, num_clips=4, seed=0):
  config = task.encoder.config
  rng = np.random.default_rng(seed)
  side = config.image_size
  return types.ClipSequenceBatch(
    clips=rng.integers(
      0, 256, (2, num_clips, config.num_frames, side, side, 3), np.uint8
    ),
    mask=np.array([[True] * num_clips, [True] * (num_clips - 1) + [False]]),
    segments=np.array([[[0.5, 2.5]], [[0.0, 1.5]]], np.float32),
    labels=np.array([[1], [2]], np.int32),
    segment_mask=np.ones((2, 1), bool),
    video_index=np.array([0, 1], np.int32),
  )


@pytest.fixture(scope="module")
def task():
  return end_to_end_memory.make_task(4, clips_per_step=2, quick=True)


@pytest.fixture(scope="module")
def params(task):
  return jax.jit(task.init)(jax.random.key(0))


def test_the_gradient_is_that_of_all_clips_at_once(task, params):
  batch, rng = batch_of(task), jax.random.key(1)
  whole = dataclasses.replace(task, clips_per_step=4)
  gradient = jax.jit(jax.grad(task.loss, has_aux=True))(params, batch, rng)[0]
  expected = jax.jit(jax.grad(whole.loss, has_aux=True))(params, batch, rng)[0]
  scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(expected))
  assert scale > 0
  for one, other in zip(
    jax.tree.leaves(gradient), jax.tree.leaves(expected), strict=True
  ):
    np.testing.assert_allclose(one, other, atol=1e-5 * scale)
  tower = jax.tree.leaves(gradient["tower"])
  assert sum(bool(jnp.abs(leaf).max() > 0) for leaf in tower) > len(tower) / 2


@pytest.mark.parametrize("frozen", ["none", "stem", "blocks", "all"])
def test_what_is_frozen_gets_no_gradient(params, frozen):
  config = localization_end_to_end_sprites.get_config(f"tiny,frozen={frozen}")
  optimizer = registry.resolve(config).optimizer
  rates = optimizer_lib.group_multipliers(optimizer, params)
  tower = rates["tower"]["video_tower"]
  assert set(jax.tree.leaves(rates["localizer"])) == {1.0}
  learns = {
    "none": {"embed", "blocks", "pool"},
    "stem": {"blocks", "pool"},
    "blocks": {"pool"},
    "all": set(),
  }[frozen]
  for part in ("embed", "blocks", "pool"):
    expected = {0.3} if part in learns else {0.0}
    assert set(jax.tree.leaves(tower[part])) == expected, part


def test_memory_does_not_grow_with_the_clips():
  few, clips = end_to_end_memory.memory(16, clips_per_step=4, quick=True)
  many, _ = end_to_end_memory.memory(64, clips_per_step=4, quick=True)
  at_once, _ = end_to_end_memory.memory(64, clips_per_step=64, quick=True)
  assert many < 0.5 * at_once
  assert many - few < 3 * clips  # no more than what grows with the input


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"tower.clips_per_step": 5}, "does not divide data.max_length 32"),
    ({"tower.workdir": ""}, "tower.workdir is empty"),
    ({"data.stride_sec": 0.0}, r"data\.stride_sec: must be above 0"),
  ],
)
def test_wrong_values_are_named(changes, message):
  config = localization_end_to_end_sprites.get_config("tiny")
  keys.change(config, changes)
  with pytest.raises(config_lib.ConfigError, match=message):
    registry.resolve(config)


def test_a_video_is_decoded_once(tmp_path):
  built_dataset.write_dataset(tmp_path, num_videos=1, num_shards=1)
  config = localization_end_to_end_sprites.get_config("tiny")
  keys.change(config, toy_runs.dataset_overrides(tmp_path))
  facts = {"clip": {"clip_sec": 2.0, "num_frames": 4, "image_size": 16}}
  videos = evaluation.Videos(registry.resolve(config), facts)
  for _ in range(2):
    source = videos.source("train")
    example = source.item(0, seed=0)
    assert example.clips.shape[1:] == (4, 16, 16, 3)
  cache = source.cache
  assert (cache.num_misses, cache.num_hits, len(cache)) == (1, 1, 1)


@pytest.mark.slow
def test_tower_and_head_are_taken_over(pretrained_directory, tmp_path):
  """Without a step, nothing changes."""
  config = localization_end_to_end_sprites.get_config("tiny")
  keys.change(
    config,
    toy_runs.dataset_overrides(pretrained_directory)
    | {
      "tower.workdir": str(pretrained_directory / "pretrain"),
      "loop.steps": 2,
      "data.batch_size": 8,  # one video on each of the tests' devices
    },
  )
  rows = registry.train(config, tmp_path / "run")
  model = tmp_path / "run" / end_to_end.MODEL_DIRECTORY
  keys.change(
    config,
    {
      "tower.workdir": str(model / "encoder"),
      "tower.localizer_workdir": str(model / "localization"),
      "loop.steps": 0,
      "optimizer.warmup_percent": 0.0,
    },
  )
  again = registry.train(config, tmp_path / "again")
  assert [row["value"] for row in again] == [row["value"] for row in rows]
  config.pyramid.width = 32
  with pytest.raises(ValueError, match="holds another localizer:\n  pyramid"):
    registry.train(config, tmp_path / "other")


def test_a_tower_with_batch_statistics_is_refused():
  model = dual_encoder.DualEncoderConfig(
    video_size="micro",
    text_size="micro",
    num_frames=4,
    image_size=16,
    patch=(2, 8, 8),
    vocab_size=8,
    max_text_length=4,
    projection_width=8,
    num_classes=0,
    video_tower="r2plus1d_micro",
  )
  facts = {"model": dataclasses.asdict(model)}
  with pytest.raises(ValueError, match="only transformers"):
    end_to_end.make_task(None, facts, ())
