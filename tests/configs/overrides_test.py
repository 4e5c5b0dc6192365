"""Values on the command line, for keys that have one and for those that do not.

A key that is None by default has to say of which type its values are, or no
flag could set it.
"""

import pathlib

import ml_collections
import pytest

from clap_jax import stages
from clap_jax.commands import configs

FOLDER = pathlib.Path(__file__).parents[2] / "configs"
FILES = sorted(
  path
  for path in FOLDER.glob("*.py")
  if path.stem not in ("common", "__init__")
)
TEXT_OF = {str: "x", float: "2.5", int: "3"}


def empty_keys(section, prefix=""):
  """(path, type) of every key whose value is None."""
  for key in section:
    if isinstance(section[key], ml_collections.ConfigDict):
      yield from empty_keys(section[key], f"{prefix}{key}.")
    elif section[key] is None:
      yield f"{prefix}{key}", section.get_type(key)


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_every_empty_key_can_be_set(file):
  for key, kind in empty_keys(configs.read(str(file), [])):
    assert kind in TEXT_OF, f"{file.name}: {key} is None, of {kind}"
    config = configs.read(str(file), [f"--config.{key}={TEXT_OF[kind]}"])
    *sections, last = key.split(".")
    for section in sections:
      config = config[section]
    assert config[last] == kind(TEXT_OF[kind]), key


def read(*overrides, name="configs/localization_thumos.py"):
  return stages.resolve(configs.read(name, list(overrides)))


def test_values_of_empty_keys_arrive():
  config = read(
    "--config.data.files.fps=25",
    "--config.data.selection_split=holdout",
    r"--config.data.holdout=_000\d$",
    name="configs/localization_thumos.py",
  )
  assert config.data.files.fps == 25.0
  assert config.data.selection_split == "holdout"
  assert config.data.holdout == r"_000\d$"
  config = read(
    "--config.optimizer.ema_decay=0.9", name="configs/pretrain_sprites.py"
  )
  assert config.optimizer.ema_decay == 0.9


def test_none_where_the_type_allows_it():
  config = read(
    "--config.loop.stall_timeout_sec=None",
    "--config.optimizer.gradient_clip=None",
    "--config.optimizer.ema_decay=0.5",
    "--config.optimizer.ema_decay=None",  # the last one counts
    "--config.loop.outlier_deviations=None",
    "--config.loop.outlier_deviations=8",
  )
  assert config.loop.stall_timeout_sec is None
  assert config.optimizer.gradient_clip is None
  assert config.optimizer.ema_decay is None
  assert config.loop.outlier_deviations == 8.0


@pytest.mark.parametrize(
  "key", ["loop.seed", "data.batch_size", "loop", "data.files.timing"]
)
def test_none_where_it_does_not(key):
  with pytest.raises(ValueError, match=rf"{key}: .*None"):
    read(f"--config.{key}=None")


def test_an_unknown_key_stays_unknown():
  with pytest.raises(ValueError, match="there is no key 'stepz'"):
    read("--config.loop.stepz=None")
