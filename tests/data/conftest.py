import pathlib

import pytest

from clap_jax.data.records import Dataset, RecordSource, open_dataset
from clap_jax.data.tokenizer import Tokenizer, train
from tests.data import built_dataset
from tests.trainers.conftest import own_toy_directory, toy_directory

__all__ = ["own_toy_directory", "toy_directory"]  # fixtures


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory) -> pathlib.Path:
  path = tmp_path_factory.mktemp("built")
  built_dataset.write_dataset(path)
  return path


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory) -> Tokenizer:
  texts = [f"the square {name}" for name in built_dataset.LABEL_NAMES] * 5
  path = tmp_path_factory.mktemp("tokenizer") / "texts.model"
  return train([*texts, "nothing moves"], vocab_size=60, path=path)


@pytest.fixture
def dataset(data_dir) -> Dataset:
  return open_dataset(data_dir, "toy/small")


@pytest.fixture
def records(dataset) -> RecordSource:
  source = dataset.split("train")
  yield source
  source.close()
