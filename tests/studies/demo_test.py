"""The demo as a study: what it trains, and the headline of its page."""

from clap_jax import config as config_lib
from clap_jax.studies import artifacts, demo, demo_page, planning
from clap_jax.trainers import registry
from configs import grounding_sprites, localization_sprites, pretrain_sprites


def test_the_demo_trains_the_configs_as_they_are():
  found = planning.artifacts_of(demo.plan("tiny", (1,), ("clap", "random")))
  assert [artifact.name for artifact in found] == [
    "data",
    "models/seed1/start/pretrain",
    *(
      f"models/seed1/{encoder}/{folder}"
      for encoder in ("random", "clap")
      for folder in ("pretrain", "features", "localization", "grounding")
    ),
  ]
  heads = {"localization": localization_sprites, "grounding": grounding_sprites}
  for artifact in found:
    if artifact.kind in (artifacts.DATA, artifacts.FEATURES):
      continue
    if artifact.kind in heads:
      config = heads[artifact.kind].get_config("tiny,seed=1")
      expected = {"data.data_dir": "", "data.features_dir": ""}
    else:
      name = artifact.row or "tac"
      config = pretrain_sprites.get_config(f"tiny,encoder={name},seed=1")
      expected = {"data.data_dir": "", "data.tokenizer": ""}
      if "start" in artifact.inputs:
        expected["sampling.stream"] = 1
    config.update_from_flattened_dict(expected)
    assert artifact.config == config_lib.as_dict(registry.resolve(config))


def row(encoder, task, metric, value):
  return {"encoder": encoder, "task": task, "metric": metric, "value": value}


def test_the_headline_states_what_came_out():
  rows = [
    row("tac", "localization", "average_map", 0.425),
    row("clap", "localization", "average_map", 0.4),
    row("clap", "localization", "average_map", 0.412),
    row("clap", "localization", "map@0.50", 0.9),
    row("tac", "grounding", "r1@0.5", 0.234),
    row("clap", "grounding", "r1@0.5", 0.532),
    row("random", "grounding", "r1@0.5", None),
  ]
  assert demo_page.outcome(rows) == (
    "tac first in localization (tac 0.425, clap 0.406); "
    "clap first in grounding (clap 0.532, tac 0.234)"
  )
  assert demo_page.outcome(rows[:1]) == "tac first in localization (tac 0.425)"
