"""Train steps without data: and for TPU slices."""

import importlib

import jax
import pytest

from clap_jax.trainers import abstract, registry
from clap_jax.training import topology
from tests.configs import keys

# One config of each family of models; their steps need nothing on disk.
FAMILIES = ("pretrain_sprites", "localization_sprites", "grounding_sprites")
FACTS = abstract.DataFacts(
  vocab_size=64, num_classes=5, feature_width=16, query_width=16
)
needs_libtpu = pytest.mark.skipif(
  topology.library_path() is None,
  reason="no TPU compiler: pip install -e .[tpu-compile]",
)


def config_of(name, arg):
  return importlib.import_module(f"configs.{name}").get_config(arg)


def run_of(name, arg):
  config = config_of(name, arg)
  trainer = registry.TRAINERS[config.trainer]
  return trainer.abstract_run(registry.resolve(config), FACTS)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("arg", ["tiny", "full"])
def test_a_step_without_data(name, arg):
  run = run_of(name, arg)
  params = jax.eval_shape(run.task.init, jax.random.key(0))
  loss, _ = jax.eval_shape(run.task.loss, params, run.batch, jax.random.key(0))
  assert loss.shape == ()


def test_facts_are_parsed_and_checked():
  facts = abstract.parse_facts("vocab_size=7,num_classes=3")
  assert (facts.vocab_size, facts.num_classes) == (7, 3)
  assert facts.feature_width == abstract.DataFacts().feature_width
  with pytest.raises(ValueError, match=r"facts\.vocabulary: unknown key"):
    abstract.parse_facts("vocabulary=7")
  with pytest.raises(ValueError, match="at least 1"):
    abstract.parse_facts("num_classes=0")


@needs_libtpu
@pytest.mark.parametrize("name", FAMILIES)
def test_one_config_of_each_family_compiles_for_a_tpu(name):
  document = registry.compile_ahead(
    config_of(name, "tiny"),
    topology="v5e:1x1",
    facts="vocab_size=64",
  )
  assert document["fits"], document["reason"]
  assert document["flops_per_step"] > 0
  assert document["collectives"] == []


@needs_libtpu
@pytest.mark.slow
def test_the_large_towers_fit_four_chips():
  """ViT-L and a text tower to match, 8 clips of 16 frames at 224 px a chip."""
  config = config_of("pretrain_sprites", "full")
  keys.change(
    config,
    {
      "model.video_size": "L",
      "model.text_size": "L",
      "clip.image_size": 224,
      "data.batch_size": 32,
      "mesh.data": 1,
      "mesh.fsdp": 4,
    },
  )
  document = registry.compile_ahead(config, topology="v5e:2x2")
  assert document["fits"], document["reason"]
