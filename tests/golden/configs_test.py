"""Every config, resolved, as sorted `key: value` lines."""

import importlib
import pathlib

import pytest

from clap_jax import config as config_lib
from clap_jax.studies import settings
from clap_jax.trainers import registry
from tests.golden import golden_file

HERE = pathlib.Path(__file__).parent
CONFIGS = HERE.parents[1] / "configs"
NAMES = sorted(
  path.stem for path in CONFIGS.glob("*.py") if path.stem != "__init__"
)
# Arguments whose texts are kept; the first in full, the others as what differs.
ARGUMENTS = {
  "pretrain_sprites": [
    "",
    *(f"encoder={name}" for name in ("random", "tac", "tsp", "clip")),
    "tiny",
    "full",
    "seed=7",
    "base_only",
  ],
  "pretrain_activitynet": [
    "",
    "encoder=tsp,tsp_recipe",
    "encoder=random,tsp_recipe",
    "transformer",
    "tiny",
    "seed=7",
  ],
  "fewshot_sprites": ["", "tiny", "full", "text", "legacy_qat"],
  "fewshot_activitynet": [
    "",
    "tiny",
    "instances=single,text",
    "legacy_qat",
  ],
  "localization_actionformer": [
    "",
    "anet_tsp",
    "anet_i3d",
    "epic_slowfast_verb",
    "epic_slowfast_noun",
    "ego4d_slowfast",
    "ego4d_omnivore",
    "ego4d_egovlp",
    "ego4d_slowfast_omnivore_egovlp",
    "ego4d_slowfast_egovlp",
    "ego4d_omnivore_egovlp",
    "ego4d_omnivore_egovlp_internvideo",
    "tiny",
    "seed=7",
  ],
  "proposals_gtad": [
    "",
    "bmn_anet_tsp",
    "thumos_tsn",
    "thumos_tsp",
    "tiny",
    "seed=7",
  ],
  "localization_features": [
    "",
    "dataset=ego4d_mq",
    "dataset=epic_sounds",
    "dataset=fineaction",
    "tiny",
    "full",
    "seed=7",
  ],
  "grounding_features": [
    "",
    "dataset=didemo",
    "dataset=ego4d_nlq",
    "dataset=youcook2",
    "tiny",
    "full",
    "seed=7",
  ],
  "grounding_qvhighlights": [
    "",
    "tiny",
    "full",
    "seed=7",
    "kind=detr",
    "tiny,kind=detr",
  ],
  "grounding_sprites": ["", "tiny", "full", "seed=7", "tiny,kind=detr"],
  "study_claim": [
    "",
    "tiny",
    "selection",
    "all_classes",
    "scratch",
    "properties",
  ],
}
STUDIES = ("study_claim",)  # of `clap study`, with no trainer of their own
DEFAULT_ARGUMENTS = ["", "tiny", "full", "seed=7"]


def resolved_lines(name: str, arg: str) -> dict[str, str]:
  config = importlib.import_module(f"configs.{name}").get_config(arg)
  assert config.is_locked, "a typo in an override must fail"
  if name in STUDIES:
    resolved = config_lib.resolve(settings.StudyConfig, config)
    return dict(sorted(_flatten(config_lib.as_dict(resolved))))
  resolved = registry.resolve(config)
  values = config_lib.as_dict(resolved)
  # What config.json keeps must resolve to the same: `clap eval` reads it.
  assert registry.resolve(values) == resolved
  return dict(sorted(_flatten(values)))


def _flatten(values, prefix=""):
  for key, value in values.items():
    if isinstance(value, dict):
      yield from _flatten(value, f"{prefix}{key}.")
    else:
      yield f"{prefix}{key}", repr(value)


def text_of(name: str) -> str:
  arguments = ARGUMENTS.get(name, DEFAULT_ARGUMENTS)
  first = resolved_lines(name, arguments[0])
  parts = [f"configs/{name}.py\n", *(f"{k}: {v}\n" for k, v in first.items())]
  for arg in arguments[1:]:
    lines = resolved_lines(name, arg)
    parts.append(f"\nconfigs/{name}.py:{arg}\n")
    for key in sorted(lines | first):
      if lines.get(key) != first.get(key):
        parts.append(f"{key}: {lines.get(key, 'absent')}\n")
  return "".join(parts)


@pytest.mark.parametrize("name", NAMES)
def test_resolved(name):
  golden_file.check(HERE / f"{name}.txt", text_of(name))


def test_no_text_is_left_over():
  others = ("_demo", "collectives_cpu", "collectives_v5e")  # no configs
  kept = {path.stem for path in HERE.glob("*.txt")}
  assert {name for name in kept if not name.endswith(others)} == set(NAMES)


@pytest.mark.parametrize("name", [n for n in NAMES if n not in STUDIES])
@pytest.mark.parametrize(
  ("arg", "message"),
  [
    ("gigantic", "Unknown size 'gigantic'"),
    ("tiny,sede=1", "Unknown config argument 'sede'"),
    ("seed=x", "seed must be of type int, got 'x'"),
    ("encoder=vlad", "Unknown .*encoder"),
    ("tiny,seed=-1", "loop.seed: must be at least 0"),
  ],
)
def test_wrong_arguments_are_named(name, arg, message):
  with pytest.raises(ValueError, match=message):
    resolved_lines(name, arg)


@pytest.mark.parametrize("name", STUDIES)
@pytest.mark.parametrize(
  ("arg", "message"),
  [
    ("gigantic", "Unknown size 'gigantic'"),
    ("tiny,sede=1", "Unknown config argument 'sede'"),
  ],
)
def test_wrong_arguments_of_studies_are_named(name, arg, message):
  with pytest.raises(ValueError, match=message):
    resolved_lines(name, arg)
