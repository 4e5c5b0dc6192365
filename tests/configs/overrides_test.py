"""Values on the command line, for keys that have one and for those that do not.

A key that is None by default has to say of which type its values are, or no
flag could set it.
"""

import dataclasses
import pathlib
import types
import typing

import ml_collections
import pytest

from clap_jax import config as config_lib
from clap_jax import main
from clap_jax.commands import configs, overrides
from clap_jax.trainers import registry

FOLDER = pathlib.Path(__file__).parents[2] / "configs"
FILES = sorted(path for path in FOLDER.glob("*.py") if path.stem != "__init__")
TEXT_OF = {str: "x", float: "2.5", int: "3", bool: "True", tuple: "('x',)"}
# One file per trainer and head; every other file is of the same dataclasses.
OF_EVERY_TRAINER = (
  "fewshot_sprites",
  "grounding_tacos",
  "localization_end_to_end_sprites",
  "localization_open_sprites",
  "localization_hapt",
  "pretrain_sprites",
  "proposals_hapt",
)


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
  return registry.resolve(configs.read(name, list(overrides)))


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
  with pytest.raises(ValueError, match="unknown key 'stepz'"):
    read("--config.loop.stepz=None")


def keys_of(cls, prefix=""):
  """(key, type) of every value of a dataclass, sections that are None too."""
  hints = typing.get_type_hints(cls)
  for field in dataclasses.fields(cls):
    hint = hints[field.name]
    if config_lib.is_duration(hint):
      for unit, key in config_lib.duration_keys(field).items():
        yield f"{prefix}{key}", int if unit == "steps" else float
      continue
    if typing.get_origin(hint) is types.UnionType:
      hint = typing.get_args(hint)[0]
    if dataclasses.is_dataclass(hint):
      yield from keys_of(hint, f"{prefix}{field.name}.")
    elif typing.get_origin(hint) is dict:
      yield f"{prefix}{field.name}.any_name", typing.get_args(hint)[1]
    else:
      yield f"{prefix}{field.name}", typing.get_origin(hint) or hint


@pytest.mark.parametrize("name", OF_EVERY_TRAINER)
def test_every_key_of_the_dataclasses_can_be_set(name):
  file = f"configs/{name}.py"
  keys = dict(keys_of(registry.config_class(configs.load(file))))
  flags = [f"--config.{key}={TEXT_OF[kind]}" for key, kind in keys.items()]
  config = configs.read(file, flags)
  for key, kind in keys.items():
    section = config
    for part in key.split("."):
      section = section[part]
    expected = {"x": "x", "2.5": 2.5, "3": 3, "True": True}
    assert section == expected.get(TEXT_OF[kind], ("x",)), key


@pytest.mark.parametrize("name", OF_EVERY_TRAINER)
def test_completing_changes_no_value(name):
  file = f"configs/{name}.py"
  before, after = registry.resolve(configs.load(file)), read(name=file)
  assert before == after


def test_keys_that_the_file_does_not_mention_arrive():
  config = read(
    "--config.data.standardize=True",
    "--config.data.length=windows",
    "--config.data.files.timing=frames",
    "--config.data.files.names={id}.npy",
    "--config.data.files.fps=30",
    "--config.data.files.stride_frames=4",
    "--config.data.files.window_frames=16",
    "--config.classifier.path=scores.json",
    name="configs/localization_sprites.py",
  )
  assert config.data.standardize
  assert config.data.length == "windows"
  assert config.data.files.names == ("{id}.npy",)
  assert (config.data.files.fps, config.data.files.window_frames) == (30, 16)
  assert config.classifier.path == "scores.json"
  assert config.classifier.top_classes == 2


def test_a_section_that_is_none_is_made_by_its_flags():
  config = read(
    "--config.data.annotations=None",
    "--config.data.texts=None",
    "--config.data.dataset=mine",
    "--config.data.queries.files.training=a.jsonl",
    "--config.data.queries.files.validation=b.jsonl",
    "--config.data.queries.files.test=c.jsonl",
    "--config.data.queries.texts=texts.npz",
    "--config.data.eval_split=test",
    name="configs/grounding_features.py",
  )
  assert config.data.queries.files["test"] == "c.jsonl"
  assert config.data.queries.durations == ()


def test_a_duration_replaces_that_of_the_file_in_another_unit():
  config = read("--config.loop.steps=7", "--config.optimizer.warmup_steps=3")
  assert config.loop.length == config_lib.Duration(7, "steps")
  assert config.optimizer.warmup == config_lib.Duration(3, "steps")
  with pytest.raises(ValueError, match=r"only one of steps, epochs"):
    read("--config.loop.steps=7", "--config.loop.epochs=3")


@pytest.mark.parametrize(
  ("key", "near"),
  [
    ("data.fps", "data.files.fps"),
    ("data.bach_size", "data.batch_size"),
    ("batch_size", "data.batch_size"),
    ("optimizer.lerning_rate", "optimizer.learning_rate"),
  ],
)
def test_an_unknown_key_lists_near_ones(key, near):
  with pytest.raises(ValueError, match=f"did you mean .*{near}"):
    read(f"--config.{key}=1")


@pytest.mark.parametrize(
  ("given", "expected"),
  [
    (["--config.a.b", "4"], ["--config.a.b=4"]),
    (["--config.a.b", "-1", "x"], ["--config.a.b=-1", "x"]),
    (["--config.a", "--config.b", "2"], ["--config.a", "--config.b=2"]),
    (["--config", "f.py", "--config.a=", "x"], None),
  ],
)
def test_a_space_is_an_equals_sign(given, expected):
  assert overrides.joined(given) == (given if expected is None else expected)


def test_a_space_on_the_command_line():
  command = "train --config f.py --workdir w --config.data.batch_size 4"
  args = main.parse(command.split())
  assert args.overrides == ["--config.data.batch_size=4"]


def test_a_flag_without_a_value_is_named():
  with pytest.raises(ValueError, match=r"data\.batch_size: got no value"):
    read("--config.data.batch_size")


def test_a_shipped_config_is_found_from_any_folder(
  monkeypatch, tmp_path, capsys
):
  monkeypatch.chdir(tmp_path)
  name = "configs/localization_thumos.py"
  assert read(name=name).protocol == "thumos14"
  assert str(FOLDER / "localization_thumos.py") in capsys.readouterr().err
  own = tmp_path / "configs"
  own.mkdir()
  (own / "localization_thumos.py").write_text("x = 1\n")
  with pytest.raises(ValueError, match="no function get_config"):
    configs.load(name)


@pytest.mark.parametrize(
  "name", ["configs/localization_tumos.py", "configs/../setup.py", "/x.py"]
)
def test_a_config_that_is_nowhere(name):
  with pytest.raises(FileNotFoundError, match=r"configs/\w+\.py"):
    configs.load(name)


def test_a_wrong_argument_names_the_config():
  with pytest.raises(ValueError, match=r"--config: .*sprites\.py:huge: .*huge"):
    configs.load("configs/pretrain_sprites.py:huge")
