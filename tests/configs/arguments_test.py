import ml_collections
import pytest

from configs.parts import arguments


@pytest.mark.parametrize(
  ("arg", "expected"),
  [
    ("", {"size": "demo", "seed": 0, "rate": 0.5, "fast": False}),
    ("tiny", {"size": "tiny"}),
    ("size=tiny", {"size": "tiny"}),
    ("tiny,seed=3,rate=2", {"size": "tiny", "seed": 3, "rate": 2.0}),
    ("seed=3,fast", {"seed": 3, "fast": True}),
    ("fast", {"size": "demo", "fast": True}),
    ("tiny,fast=False,", {"size": "tiny", "fast": False}),
    ("size=a=b", {"size": "a=b"}),
  ],
)
def test_parse_arg(arg, expected):
  defaults = {"size": "demo", "seed": 0, "rate": 0.5, "fast": False}
  values = arguments.parse_arg(arg, **defaults)
  assert values == defaults | expected
  assert {k: type(v) for k, v in values.items()} == {
    k: type(v) for k, v in defaults.items()
  }


@pytest.mark.parametrize(
  ("arg", "message"),
  [
    ("tiny,sede=1", r"'sede'.*\['fast', 'seed', 'size'\]"),
    ("tiny,demo", "'demo'"),  # only the first item may be bare
    ("seed=one", "seed must be of type int, got 'one'"),
    ("seed=1.5", "seed must be of type int"),
    ("seed", "seed must be of type int, got 'True'"),
    ("fast=yes", "fast must be True or False, got 'yes'"),
    ("tiny,size=demo", "'size' is given twice"),
    ("seed=1,seed=1", "'seed' is given twice"),
    ("tiny, seed=1", "' seed'"),
  ],
)
def test_parse_arg_names_what_is_wrong(arg, message):
  with pytest.raises(ValueError, match=message):
    arguments.parse_arg(arg, size="demo", seed=0, fast=False)


def test_a_bare_item_without_a_string_default():
  with pytest.raises(ValueError, match="'tiny'"):
    arguments.parse_arg("tiny", seed=0)
  with pytest.raises(ValueError, match="'tiny'"):
    arguments.parse_arg("tiny")


def config():
  return ml_collections.ConfigDict(
    {
      "loop": {"epochs": 2.0, "log_every_percent": 1.0},
      "checkpoint": {"save_every_percent": 25.0, "keep": 2},
    }
  )


def test_update_replaces_a_duration_in_whatever_unit():
  table = {
    "tiny": {
      "loop.steps": 4,
      "loop.log_every_steps": 1,
      "checkpoint.save_every_epochs": 0.5,
      "checkpoint.keep": 3,
    }
  }
  updated = config()
  arguments.update(updated, table, "size", "tiny")
  assert updated.to_dict() == {
    "loop": {"steps": 4, "log_every_steps": 1},
    "checkpoint": {"save_every_epochs": 0.5, "keep": 3},
  }


def test_update_with_nothing_and_with_an_unknown_row():
  updated = config()
  arguments.update(updated, {"demo": {}}, "size", "demo")
  assert updated.to_dict() == config().to_dict()
  with pytest.raises(ValueError, match=r"size 'tiny'.*\['demo'\]"):
    arguments.update(updated, {"demo": {}}, "size", "tiny")


def test_update_of_a_section_that_is_not_there():
  with pytest.raises(KeyError, match="optimiser"):
    arguments.update(
      config(), {"a": {"optimiser.learning_rate": 1}}, "size", "a"
    )
