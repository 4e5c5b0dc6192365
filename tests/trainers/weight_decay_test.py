"""Which parameters of the real models weight decay applies to."""

import importlib

import jax
import pytest

from clap_jax.trainers import abstract, registry
from clap_jax.training import optimizer, paths
from tests.configs import keys

FACTS = abstract.DataFacts(
  vocab_size=64, num_classes=5, feature_width=16, query_width=16
)
DECAYED = {"kernel", "embedding"}
# A parameter with another name fails here: decide whether it is decayed.
SPARED = {
  "bias",
  "class_token",
  "distance_bias",
  "gain",
  "logit_bias",
  "logit_scale",
  "positions",
  "query",
  "read_bias",
  "scale",
  "space_positions",
  "step_size",
  "text_scale",
  "threshold",
  "time_positions",
}


def tower(name):
  return {"model.video_tower": name, "model.motion_gain": 0.0}


@pytest.mark.parametrize(
  ("name", "arg", "values"),
  [
    ("pretrain_sprites", "demo", {}),
    ("pretrain_sprites", "tiny", tower("r2plus1d_18")),
    ("pretrain_sprites", "tiny", tower("clip")),
    ("pretrain_sprites", "tiny", tower("videoprism")),
    ("pretrain_sprites", "tiny", {"model.text_tower": "bert"}),
    ("pretrain_activitynet", "tiny", {}),
    ("localization_sprites", "tiny", {}),
    ("localization_thumos", "tiny", {}),
    ("proposals_hapt", "tiny", {}),
    ("fewshot_sprites", "tiny,text", {}),
    ("grounding_tacos", "tiny", {}),
    ("grounding_sprites", "tiny,kind=map", {}),
  ],
)
def test_kernels_and_embeddings_are_decayed_and_nothing_else(name, arg, values):
  config = importlib.import_module(f"configs.{name}").get_config(arg)
  keys.change(config, values)
  trainer = registry.TRAINERS[config.trainer]
  run = trainer.abstract_run(registry.resolve(config), FACTS)
  shapes = jax.eval_shape(run.task.init, jax.random.key(0))
  flags = paths.flatten(optimizer.decayed(shapes))
  by_name = {True: set(), False: set()}
  for path, flag in flags.items():
    if path.startswith("params/"):  # not the running averages of a norm
      by_name[flag].add(path.split("/")[-1])
  assert by_name[True] and by_name[True] <= DECAYED
  assert by_name[False] <= SPARED
  for path, shape in paths.flatten(shapes).items():
    if flags[path]:
      assert shape.ndim >= 2, path
