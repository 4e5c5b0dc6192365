"""A finished pre-training on the toy dataset, for what starts from one."""

import pathlib

from clap_jax import stages
from clap_jax.data import records
from clap_jax.data import tokenizer as tokenizer_lib
from configs import pretrain_sprites
from tests.data import built_dataset


def dataset_overrides(directory: pathlib.Path) -> dict[str, str]:
  return {
    "data.dataset": "toy/small",
    "data.data_dir": str(directory),
    "data.train_split": "train",
    "data.selection_split": "train",
    "data.eval_split": "train",
  }


def pretrain(directory: pathlib.Path, *, encoder="random") -> pathlib.Path:
  """Builds DIRECTORY/toy/small, trains DIRECTORY/pretrain; returns it."""
  built_dataset.write_dataset(directory, num_videos=4)
  infos = records.open_dataset(directory, "toy/small").split("train").metadata()
  tokenizer = directory / "tokenizer.model"
  texts = [text for info in infos.examples for *_, text in info.captions]
  tokenizer_lib.train(texts, vocab_size=64, path=tokenizer)
  config = pretrain_sprites.get_config(f"tiny,encoder={encoder}")
  config.update_from_flattened_dict(
    dataset_overrides(directory) | {"data.tokenizer": str(tokenizer)}
  )
  stages.train(config, directory / "pretrain")
  return directory / "pretrain"
