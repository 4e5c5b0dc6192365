"""A finished run is recognised by its config, also an earlier revision's."""

import json

import pytest

from clap_jax import config as config_lib
from clap_jax.commands import configs
from clap_jax.evaluation import results
from clap_jax.trainers import registry
from configs import pretrain_sprites

ROW = {"task": "retrieval", "metric": "r1", "value": 0.5}


@pytest.fixture
def workdir(tmp_path):
  """What a run of the tiny config left before clips had a `resize`."""
  config = config_lib.as_dict(
    registry.resolve(pretrain_sprites.get_config("tiny"))
  )
  del config["clip"]["resize"]
  (tmp_path / "config.json").write_text(json.dumps(config))
  results.write(tmp_path, [ROW])
  return tmp_path


def test_a_key_with_a_default_is_not_an_other_config(workdir):
  config = pretrain_sprites.get_config("tiny")
  assert registry.train(config, workdir) == [ROW]


def test_another_value_is(workdir):
  config = pretrain_sprites.get_config("tiny")
  with config.unlocked():
    config.clip.resize = "tsp"
  with pytest.raises(ValueError, match=r"clip\.resize: was squash, now tsp"):
    registry.train(config, workdir)


@pytest.mark.parametrize("document", [5, None, [], float("nan")])
def test_a_config_that_is_not_an_object(document):
  with pytest.raises(ValueError, match=r"config\.json"):
    configs.of_run(document, [], changeable=())


def test_a_config_file_of_absurd_size_is_not_read(tmp_path):
  path = tmp_path / "config.py"
  with path.open("wb") as file:
    file.truncate(12 << 40)
  with pytest.raises(ValueError, match=r"config\.py has .* at most"):
    configs.load_module(str(path))
