"""Every key of the public configurations against ours."""

import importlib

import pytest
import yaml

from clap_jax import config as config_lib
from clap_jax.interchange import actionformer_config, actionformer_run
from clap_jax.trainers import registry
from clap_jax.training import workdir
from tests.interchange import published_heads

# What the public files state, without the places of their data.
FILE = published_heads.FIXTURES / "actionformer_published.yaml"
# Where the data lie and what made them is each user's own.
OWN = ("data.annotations", "data.features_dir", "data.files.encoder")
# Not of the public files: how often to log and save, and other videos' names.
UNSTATED = (
  "checkpoint",
  "classifier.path",
  "data.ignored_labels",
  "data.num_threads",
  "data.on_missing",
  "loop.log_every",
  "mesh",
)


def compared(config):
  flat = workdir.flattened(config_lib.as_dict(registry.resolve(config)))
  return {
    key: value
    for key, value in flat.items()
    if not key.startswith((*OWN, *UNSTATED))
  }


PUBLISHED = yaml.safe_load(FILE.read_text())


@pytest.mark.parametrize("name", PUBLISHED)
def test_recipe(name, tmp_path):
  path = tmp_path / f"{name}.yaml"
  path.write_text(yaml.safe_dump(PUBLISHED[name]))
  public = compared(actionformer_run.run_config(actionformer_config.read(path)))
  module = importlib.import_module("configs.localization_actionformer")
  ours = compared(module.get_config(name))
  # Of several streams, the folders within the folder of all are compared too.
  assert ours == public


def test_every_recipe_is_compared():
  module = importlib.import_module("configs.localization_actionformer")
  assert set(PUBLISHED) == set(module.RECIPES) - {"tiny"}
