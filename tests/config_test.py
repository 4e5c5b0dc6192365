import dataclasses

import ml_collections
import pytest

from clap_jax import config as config_lib


@dataclasses.dataclass(frozen=True)
class _ModelConfig:
  size: str = config_lib.choice("tiny", "base")
  patch: tuple[int, int, int] = config_lib.ranged(
    default=(2, 16, 16), minimum=1
  )
  weights: dict[str, float] = dataclasses.field(default_factory=dict)
  remat: bool = False
  vocabulary: str | None = None


@dataclasses.dataclass(frozen=True)
class _TrainerConfig:
  model: _ModelConfig
  optimizer: config_lib.OptimizerConfig
  loop: config_lib.LoopConfig
  checkpoint: config_lib.CheckpointConfig = dataclasses.field(
    default_factory=config_lib.CheckpointConfig
  )


@dataclasses.dataclass(frozen=True)
class _Sections:
  trained: _TrainerConfig
  mesh: config_lib.MeshConfig


def good():
  return ml_collections.ConfigDict(
    {
      "model": {"size": "tiny", "patch": (1, 8, 8), "weights": {"a": 1}},
      "optimizer": {
        "learning_rate": 1,
        "warmup_percent": 10,
        "warmup_steps": None,
        "groups": (("text_tower/.*", 0.1),),
      },
      "loop": {"steps": 100, "eval_every_epochs": 0.5},
    }
  )


def test_a_good_config():
  config = config_lib.resolve(_TrainerConfig, good().lock())
  assert config.model == _ModelConfig("tiny", (1, 8, 8), {"a": 1.0})
  assert config.optimizer.learning_rate == 1.0
  assert isinstance(config.optimizer.learning_rate, float)
  assert config.optimizer.groups == (("text_tower/.*", 0.1),)
  assert config.optimizer.warmup == config_lib.Duration(10.0, "percent")
  assert config.loop.length == config_lib.Duration(100, "steps")
  assert config.loop.eval_every.in_steps(steps_per_epoch=30) == 15
  assert config.checkpoint.save_every.in_steps(total_steps=100) == 10


def test_a_section_that_is_left_out_is_an_empty_one():
  config = good()
  del config["optimizer"]
  with pytest.raises(config_lib.ConfigError) as error:
    config_lib.resolve(_TrainerConfig, config)
  assert error.value.problems == (
    "optimizer.learning_rate: missing; give float.",
  )
  values = good().to_dict()
  whole = config_lib.resolve(_Sections, {"mesh": {}, "trained": values})
  assert whole == config_lib.resolve(_Sections, {"trained": values})
  assert whole.mesh == config_lib.MeshConfig()


def test_its_json_resolves_to_the_same():
  config = config_lib.resolve(_TrainerConfig, good())
  values = config_lib.as_dict(config)
  assert values["loop"]["steps"] == 100
  assert config_lib.resolve(_TrainerConfig, values) == config
  assert config_lib.config_hash(values) == config_lib.config_hash(config)
  other = good()
  other.loop.steps = 101
  assert config_lib.config_hash(other) != config_lib.config_hash(config)


def test_all_problems_are_reported_together():
  config = good()
  del config.model["size"]
  config.model.patch = (1, 0, 8)
  config.model.remat = "yes"
  config.model.colour = "red"
  config.optimizer = ml_collections.ConfigDict(
    {
      "learning_rate": float("nan"),
      "warmup_steps": 5,
      "warmup_percent": 10,
      "name": "lion",
      "b1": 1.5,
    }
  )
  config.loop = ml_collections.ConfigDict({"seed": True})
  config.checkpoint = ml_collections.ConfigDict({"save_every_percent": 101.0})
  with pytest.raises(config_lib.ConfigError) as error:
    config_lib.resolve(_TrainerConfig, config)
  expected = (
    "model.size: missing; give str.",
    "model.patch[1]: must be at least 1, got 0.",
    "model.remat: expected bool, got 'yes'.",
    "model.colour: unknown key; choose from size, patch, weights,",
    "optimizer.learning_rate: must be finite, got nan.",
    "optimizer: give only one of warmup_steps, warmup_percent.",
    "optimizer.name: got 'lion'; choose from ",
    "optimizer.b1: must be at least 0.0 and at most 1.0, got 1.5.",
    "loop: missing; give exactly one of steps, epochs.",
    "loop.seed: expected int, got True.",
    "checkpoint.save_every_percent: must be above 0.0 and at most 100,",
  )
  for line in expected:
    assert any(p.startswith(line) for p in error.value.problems), line
  assert len(error.value.problems) == len(expected)


@pytest.mark.parametrize(
  ("section", "values", "message"),
  [
    ("model", {"size": "tiny", "patch": (1, 2)}, "expected 3 items"),
    ("model", {"size": "tiny", "patch": "abc"}, "expected a tuple"),
    ("model", 3, "model: expected a section, got 3"),
    ("loop", {"steps": 1.5}, "loop.steps: expected int"),
    ("loop", {"steps": -1}, "loop.steps: must be at least 0"),
    (
      "optimizer",
      {"learning_rate": 0.1, "groups": (("(", 1.0),)},
      "optimizer: groups: bad regex",
    ),
    (
      "optimizer",
      {"learning_rate": 0.1, "groups": (("a", -1.0),)},
      "must be finite and at least",
    ),
  ],
)
def test_each_problem_is_reported(section, values, message):
  config = good().to_dict() | {section: values}
  with pytest.raises(config_lib.ConfigError, match="1 problem") as error:
    config_lib.resolve(_TrainerConfig, config)
  assert message in str(error.value)


def test_durations():
  assert config_lib.Duration(0.001, "percent").in_steps(total_steps=100) == 1
  assert config_lib.Duration(0.0, "percent").in_steps(total_steps=100) == 0
  with pytest.raises(ValueError, match="needs steps_per_epoch"):
    config_lib.Duration(2, "epochs").in_steps(total_steps=100)


def test_mesh_axes():
  with pytest.raises(ValueError, match="only one mesh axis"):
    config_lib.MeshConfig(data=-1, fsdp=-1)
