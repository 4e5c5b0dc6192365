"""Runs of the real commands on the toy dataset, a few steps each."""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax

from clap_jax import main
from clap_jax.data import records
from clap_jax.data import tokenizer as tokenizer_lib
from tests.data import built_dataset

SMALL_TOWERS = {
  "clip.num_frames": 4,
  "clip.image_size": 16,
  "model.patch": (2, 8, 8),
  "model.max_text_length": 8,
  "loop.steps": 2,
}


def dataset_overrides(directory: pathlib.Path) -> dict[str, str]:
  return {
    "data.dataset": "toy/small",
    "data.data_dir": str(directory),
    "data.train_split": "train",
    "data.selection_split": "train",
    "data.eval_split": "train",
  }


def build(directory: pathlib.Path) -> None:
  """DIRECTORY/toy/small and DIRECTORY/tokenizer.model."""
  built_dataset.write_dataset(directory, num_videos=4)
  infos = records.open_dataset(directory, "toy/small").split("train").metadata()
  texts = [text for info in infos.examples for *_, text in info.captions]
  tokenizer_lib.train(texts, vocab_size=64, path=directory / "tokenizer.model")


def clap(*arguments) -> None:
  """Runs a command in this process; it must succeed.

  Its programs run for a moment: to optimize them would take longer.
  """
  flag = "jax_disable_most_optimizations"
  before = jax.config.read(flag)
  jax.config.update(flag, True)
  try:
    assert main.main([str(argument) for argument in arguments]) == 0
  finally:
    jax.config.update(flag, before)


def train(
  directory: pathlib.Path,
  config: str,
  *,
  workdir: str,
  values: Mapping[str, Any],
) -> pathlib.Path:
  """`clap train` of a config on DIRECTORY/toy/small; returns its workdir."""
  values = dataset_overrides(directory) | dict(values)
  clap(
    "train",
    f"--config=configs/{config}",
    f"--workdir={directory / workdir}",
    *(f"--config.{key}={value}" for key, value in values.items()),
  )
  return directory / workdir


def pretrain(
  directory: pathlib.Path,
  *,
  encoder: str = "random",
  values: Mapping[str, Any] | None = None,
) -> pathlib.Path:
  """Builds the dataset, trains DIRECTORY/pretrain; returns it."""
  build(directory)
  tokenizer = {"data.tokenizer": directory / "tokenizer.model"}
  return train(
    directory,
    f"pretrain_sprites.py:tiny,encoder={encoder}",
    workdir="pretrain",
    values=tokenizer | dict(values or {}),
  )
