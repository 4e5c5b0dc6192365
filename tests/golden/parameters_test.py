"""The parameters of the demo's dual encoder: path, shape, type."""

import pathlib
import types

import jax
import numpy as np

from clap_jax.models import dual_encoder
from clap_jax.trainers import pretrain
from configs import pretrain_sprites
from tests.golden import golden_file

VOCAB_SIZE = 512  # what `clap demo` asks of its tokenizer
NUM_CLASSES = 24


def dual_encoder_shapes(arg: str):
  config = pretrain.resolve(pretrain_sprites.get_config(arg))
  reader = types.SimpleNamespace(
    tokenizer=types.SimpleNamespace(vocab_size=VOCAB_SIZE),
    dataset=types.SimpleNamespace(label_names=("verb",) * NUM_CLASSES),
  )
  model = dual_encoder.DualEncoder(pretrain.model_config(config, reader))
  task = pretrain.PretrainTask(model, config.loss)
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
