"""The parameters of the demo's models: path, shape, type."""

import pathlib
import types

import jax
import numpy as np
import pytest

from clap_jax.models import dual_encoder
from clap_jax.trainers import (
  abstract,
  fewshot,
  grounding,
  pretrain,
  pretrain_task,
  registry,
)
from configs import fewshot_sprites, grounding_sprites, pretrain_sprites
from tests.golden import golden_file

VOCAB_SIZE = 512  # what `clap demo` asks of its tokenizer
NUM_CLASSES = 24


def dual_encoder_shapes(arg: str):
  config = registry.resolve(pretrain_sprites.get_config(arg))
  reader = types.SimpleNamespace(
    tokenizer=types.SimpleNamespace(vocab_size=VOCAB_SIZE),
    dataset=types.SimpleNamespace(label_names=("verb",) * NUM_CLASSES),
  )
  model = dual_encoder.DualEncoder(pretrain.model_config(config, reader))
  task = pretrain_task.PretrainTask(model, config.loss)
  return jax.eval_shape(task.init, jax.random.key(0))


def table(shapes) -> str:
  rows = sorted(
    ("/".join(key.key for key in path), leaf)
    for path, leaf in jax.tree_util.tree_leaves_with_path(shapes)
  )
  total = sum(int(np.prod(leaf.shape)) for _, leaf in rows)
  lines = [f"{path} {list(leaf.shape)} {leaf.dtype}\n" for path, leaf in rows]
  return "".join([*lines, f"total {total:,}\n"])


def test_the_demo_dual_encoder():
  path = pathlib.Path(__file__).parent / "dual_encoder_demo.txt"
  golden_file.check(path, table(dual_encoder_shapes("demo")))


@pytest.mark.parametrize(
  ("name", "trainer", "configs", "arg"),
  [
    ("grounder_pyramid", grounding, grounding_sprites, "demo"),
    ("grounder_map", grounding, grounding_sprites, "demo,kind=map"),
    ("grounder_detr", grounding, grounding_sprites, "demo,kind=detr"),
    ("matcher", fewshot, fewshot_sprites, "demo,text"),
  ],
)
def test_the_demo_heads(name, trainer, configs, arg):
  """Renamed parameters would leave every trained head behind."""
  config = registry.resolve(configs.get_config(arg))
  facts = abstract.DataFacts(feature_width=192, query_width=96)
  task = trainer.abstract_run(config, facts).task
  shapes = jax.eval_shape(task.init, jax.random.key(0))
  path = pathlib.Path(__file__).parent / f"{name}_demo.txt"
  golden_file.check(path, table(shapes))
